"""How an error is said: one line on stderr, whatever else is kept quiet."""

import sys

from ..errors import DiffucoderError
from .options import flag_of


def fail(message: str, code: int) -> int:
    """Say it, and return the exit code."""
    text = " ".join(message.split())
    # The stream that the process began with: `--quiet` takes the other's place.
    print("diffucode: " + text.encode("utf-8", "replace").decode("utf-8"), file=sys.__stderr__ or sys.stderr)
    return code


def say_error(error: DiffucoderError, code: int = 1) -> int:
    return fail(with_flag(error), code)


def with_flag(error: DiffucoderError) -> str:
    """The error's text, the configuration's field at its head replaced by the flag that sets it."""
    message = str(error)
    if error.field is None or not message.startswith(error.field):
        return message
    return flag_of(error.field) + message.removeprefix(error.field)
