"""Who may ask this server: checked before a request is read.

A web page that somebody visits can send requests to a server on the same machine. So on loopback the header Host must name
this machine (a foreign name that leads here is DNS rebinding), and an Origin must be of this machine or one that the user
allows. A key, where one is set, is needed for everything but `/health` and the page.
"""

import hmac
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem

OPEN = ("/", "/health", "/v1/health")
"""Paths that need no key."""
METHODS = "GET, POST, OPTIONS"


def new_id() -> str:
    """The id of a request, which its answer has in its head."""
    return secrets.token_hex(12)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost") or host.lower().endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _hostname(url: str) -> str:
    """The host that an address names; empty where it names none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True)
class Guard:
    """Checks requests, and puts an id and what a browser needs into every head. A path may end with a slash.

    Args:
        app: answers what is allowed.
        key: that requests must have; None for none.
        local: whether the server listens on loopback only.
        origins: web pages that may ask, besides those of this machine.
    """

    app: ASGIApp
    key: str | None
    local: bool
    origins: Collection[str] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        extra = {"x-request-id": new_id()}
        allowed = origin is not None and self._allows(origin)
        if allowed:
            extra |= {"access-control-allow-origin": str(origin), "vary": "Origin"}

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in extra.items():
                    found[name] = value
            await send(message)

        try:
            self._check(scope, headers, allowed)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send_more)
            return
        if scope["method"] == "OPTIONS" and allowed:
            await _preflight(headers)(scope, receive, send_more)
            return
        await self.app(scope, receive, send_more)

    def _allows(self, origin: str) -> bool:
        return origin in self.origins or "*" in self.origins or is_loopback(_hostname(origin))

    def _check(self, scope: Mapping[str, Any], headers: Headers, allowed: bool) -> None:
        """Raise `Problem` for a request that is not allowed."""
        host = _hostname("//" + headers.get("host", ""))
        if self.local and not is_loopback(host):
            raise Problem(403, f"the host {host!r} is not this machine; ask at 127.0.0.1 or localhost", code="forbidden_host")
        if "origin" in headers and not allowed:
            origin = headers["origin"]
            message = f"web pages of {origin!r} may not ask; allow them with --allow-origin"
            raise Problem(403, message, code="forbidden_origin")
        if self.key is None or scope["path"] in OPEN or scope["method"] == "OPTIONS":
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode("latin-1"), self.key.encode()):  # the bytes that were sent
            raise Problem(401, "the API key is missing or wrong; send it as: Authorization: Bearer KEY", code="invalid_api_key")


def _preflight(headers: Headers) -> Response:
    wanted = headers.get("access-control-request-headers", "authorization, content-type, x-api-key")
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": wanted,
            "access-control-max-age": "600",
        },
    )
