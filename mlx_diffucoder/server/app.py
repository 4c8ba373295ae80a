"""The table of all interfaces, and how a request gets to its function."""

import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import llama, mercury, ollama, openai, page
from .guard import Guard
from .problems import Problem, problem_of
from .state import State

INTERFACES = (page, llama, openai, mercury, ollama)
"""A new interface is one file with `ROUTES`, and its name here."""
HTTP = {404: "there is nothing at {path}", 405: "{path} does not take {method}"}
_log = logging.getLogger("mlx_diffucoder")

Endpoint = Callable[[Request, State], Awaitable[Response]]


def app_of(state: State, *, key: str | None = None, local: bool = True, origins: Collection[str] = ()) -> ASGIApp:
    """The application. The arguments are as for `Guard`."""
    routes = [
        Route(path, partial(_answer, function, state), methods=[method])
        for interface in INTERFACES
        for method, path, function in interface.ROUTES
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _refused}), key, local, origins)


async def _answer(function: Endpoint, state: State, request: Request) -> Response:
    """Let a function answer; what goes wrong is told in the form of the interface."""
    try:
        response = await function(request, state)
        if state.log_prompts and hasattr(request.state, "body"):
            _log.warning("%s %s", request.url.path, request.state.body)
        return response
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    except Exception as error:
        problem = problem_of(error)
        if problem.status >= 500 and not isinstance(error, Problem):
            _log.exception("%s failed", request.url.path)
        return problem.response(request.url.path)


async def _refused(request: Request, error: Exception) -> Response:
    """The framework's own 404 and 405."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = HTTP.get(status, "the request was refused").format(path=request.url.path[:100], method=request.method)
    answer = Problem(status, message, code="not_found" if status == 404 else "method_not_allowed").response(request.url.path)
    if isinstance(error, HTTPException):
        answer.headers.update(error.headers or {})  # those that are allowed
    return answer
