"""Reads the body of a request: its size and time are limited, and it must be JSON of the form that the interface has."""

import asyncio
import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from .problems import Problem

LARGEST = 8 * 2**20
"""Bytes."""
SECONDS = 20.0
"""The time that a client has to send a body."""
MOST_TOKENS = 2**20
MOST_TEXTS = 64
"""Texts that one request can ask for."""

B = TypeVar("B", bound="Body")
Count = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Predict = Annotated[int, Field(ge=-2, le=MOST_TOKENS)]
"""Tokens to write as llama.cpp counts them: below 0 is no limit."""
Copies = Annotated[int, Field(ge=1, le=MOST_TEXTS)]
Temperature = Annotated[float, Field(ge=0, le=100)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, le=2**31)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Stops = str | list[str]


class Body(BaseModel):
    """A body. Fields that are not known are ignored; a value of another type is refused."""

    model_config = ConfigDict(extra="ignore", strict=True)


async def read(request: Request, form: type[B]) -> B:
    """The body of a request.

    Raises:
        Problem: 400, 408, 413 or 415.
        ClientDisconnect: the client has gone.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "the body must be JSON, with the header Content-Type: application/json")
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise Problem(415, f"a body in {encoding} is not read; send it as it is")
    data = await _bytes(request)
    try:
        given = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not valid JSON ({error})", code="invalid_json") from None
    request.state.body = data.decode()
    if not isinstance(given, dict):
        raise Problem(400, "the body must be a JSON object", code="invalid_json")
    for name, value in given.items():
        _check_value(name.encode(errors="replace").decode(), value)
    try:
        return form.model_validate(given)
    except ValidationError as error:
        raise _first(error) from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply", code="invalid_json") from None


async def _bytes(request: Request) -> bytes:
    too_large = Problem(413, f"the body is larger than {LARGEST // 2**20} MB; send less context", code="request_too_large")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > LARGEST:
        too_large.unread = True
        raise too_large
    data, size = bytearray(), 0
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= LARGEST:
                    data += chunk
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {SECONDS:.0f} s") from None
    if size > LARGEST:
        raise too_large
    return bytes(data)


def _check_value(name: str, value: Any) -> None:
    """Raise `Problem` for what Python's JSON reads and JSON has not: NaN, numbers without end, halves of Unicode pairs."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        what = "is not valid Unicode" if isinstance(error, UnicodeError) else "holds a number that JSON has not"
        raise Problem(400, f"{name}: {what}", param=name, code="invalid_value") from None
    except RecursionError:
        raise Problem(400, f"{name}: is nested too deeply", param=name, code="invalid_json") from None


def _first(error: ValidationError) -> Problem:
    """The problem of the first field that is wrong. The names of the types in a union are no fields."""
    found = error.errors(include_url=False)[0]
    where = [one for one in found["loc"] if isinstance(one, int) or (one.isidentifier() and one not in ("str", "int", "list"))]
    name = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in where).lstrip(".")
    return Problem(400, f"{name}: {found['msg']}", param=str(where[0]) if where else None, code="invalid_value")


def stops_of(given: Stops | None) -> tuple[str, ...]:
    """The stop texts. Raises `Problem` for an empty one."""
    stops = (given,) if isinstance(given, str) else tuple(given or ())
    if not all(stops):
        raise Problem(400, "stop: a stop text is empty", param="stop", code="invalid_value")
    return stops
