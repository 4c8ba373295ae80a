"""The web page at `/`, which shows a canvas while it is denoised."""

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from .state import State

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


@cache
def _html() -> str:
    return (files(__package__) / "page.html").read_text(encoding="utf-8")


async def page(request: Request, state: State) -> Response:
    """`GET /`."""
    headers = {"content-security-policy": POLICY, "x-frame-options": "DENY", "cache-control": "no-cache"}
    return HTMLResponse(_html(), headers=headers)


ROUTES = (("GET", "/", page),)
