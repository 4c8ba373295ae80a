"""What a client is told when a request cannot be answered: a status, and a message in the form of the interface it uses."""

import asyncio
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from ..errors import CheckpointError, ContextError, DiffucoderError, PromptError
from .engine import Busy

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
SERVER = "server_error"
PATIENCE = 20.0
"""Seconds in which the rest of a body that is not read may arrive."""
PROMPT = "prompt"
"""The field with the prompt; requests of a chat have `messages` instead."""


class Unread(JSONResponse):
    """An answer to a request whose body is not read but thrown away: a client that is cut off while it sends sees no answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_open(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await super().__call__(scope, receive, send_open)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body"})


class Problem(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: what is wrong, and what to do.
        param: the field at fault.
        code: a name for programs.
        seconds: when to try again.
        unread: whether the body was not read.
    """

    unread = False

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.seconds = status, message, param, code, seconds

    @property
    def type(self) -> str:
        """The kind of error, as OpenAI names it."""
        return TYPES.get(self.status, SERVER if self.status >= 500 else "invalid_request_error")

    def to_openai(self) -> dict[str, Any]:
        """In the form of OpenAI's interface, which all others but Ollama's use here."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def body(self, path: str) -> dict[str, Any]:
        """In the form of the interface that a path belongs to."""
        if path.startswith("/api/"):
            return {"error": self.message}
        if self.param == PROMPT and path.endswith(("/chat/completions", "/edit/completions")):
            self.param = "messages"
        return self.to_openai()

    def response(self, path: str) -> JSONResponse:
        """The answer to a request at a path."""
        headers = {} if self.seconds is None else {"retry-after": str(self.seconds)}
        return (Unread if self.unread else JSONResponse)(self.body(path), self.status, headers)


def problem_of(error: Exception) -> Problem:
    """What a client is told of an error of the engine's."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Busy):
        status = 503 if error.stopping else 429
        return Problem(status, str(error), code="unavailable" if error.stopping else "rate_limited", seconds=error.seconds)
    if isinstance(error, ContextError):
        return Problem(400, str(error), param=error.field or PROMPT, code="context_length_exceeded")
    if isinstance(error, CheckpointError) or not isinstance(error, DiffucoderError):
        known = isinstance(error, CheckpointError)
        return Problem(500, str(error) if known else "the server failed; its log says why", code="internal_error")
    return Problem(400, str(error), param=error.field or (PROMPT if isinstance(error, PromptError) else None))
