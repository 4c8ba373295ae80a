"""What is printed: results on stdout, notes on stderr. A terminal gets no text's control characters, a file every byte."""

import codecs
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..errors import FileError
from ..formatting import visible


class _Notes(io.FileIO):
    """The file of stderr. What it cannot take, on a full disk for example, is lost, and the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError:
            return len(data)


def _unwritable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a file name that are no text are written as they are; a character that a terminal cannot show is a `?`."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.replace_errors(error)


def open_streams() -> None:
    """Open standard streams that the parent process closed on nothing, before a file can take their numbers.

    Variables that name no folder for temporary files are removed: MLX needs one that exists.
    """
    for variable in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"):
        if not os.path.isdir(os.environ.get(variable, os.curdir)):  # noqa: PTH112
            del os.environ[variable]
    codecs.register_error("unwritable", _unwritable)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="unwritable")
    notes = io.BufferedWriter(_Notes(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(notes, sys.stderr.encoding if sys.stderr else "utf-8", "unwritable", line_buffering=True)


def shown(text: str, stream: TextIO) -> str:
    """The text as a stream gets it: `visible` on a terminal, unchanged in a file or a pipe."""
    return visible(text) if stream.isatty() else text


def cell(text: object) -> str:
    """A text inside a table or a line of `rich` on stdout: without markup, and as `shown`."""
    from rich.markup import escape

    return escape(shown(str(text), sys.stdout))


def put(text: object = "", *, end: str = "\n", flush: bool = False) -> None:
    """Print a result on stdout.

    Raises:
        FileError: stdout cannot be written, for its disk is full for example.
        BrokenPipeError: nothing reads it any more.
    """
    with _writing():
        print(shown(str(text), sys.stdout), end=end, flush=flush)


def put_json(value: object) -> None:
    """Print an object as a line of JSON, as `put`. A terminal gets escapes for what it must not get raw."""
    # Half of a pair, as in a file's name that is no text, becomes JSON's escape.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    if sys.stdout.isatty():
        text = "".join(mark if visible(mark) == mark else f"\\u{ord(mark):04x}" for mark in text)
    with _writing():
        print(text, flush=True)


def put_bytes(data: bytes, encoding: str) -> None:
    """Print a file's bytes, as `put`. A terminal gets them as text of this encoding."""
    if sys.stdout.isatty():
        put(data.decode(encoding, "replace"), end="", flush=True)
        return
    with _writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"stdout: cannot be written ({error.strerror})") from None


def note(text: str = "", *, stream: TextIO | None = None) -> None:
    """Print a line that is not a result: on stderr, or on the stream given."""
    stream = stream or sys.stderr
    print(shown(text, stream), file=stream, flush=True)
