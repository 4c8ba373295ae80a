"""The process and its terminal: what is printed, signals and exit codes, what stdin holds, the user's editor.

Results go to stdout, notes to stderr. A terminal gets no text's control characters, a file every byte.
"""

import codecs
import io
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from .. import ranks
from ..errors import ChatError, DiffucoderError, FileError, PromptError
from ..formatting import visible
from ..ranks import is_follower, rank

LONGEST = 2000
"""The most characters of an error that are printed."""


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
    if rank() is not None:
        _silence_engine()
    notes = io.BufferedWriter(_Notes(ranks.stderr if not is_follower() else 2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(notes, sys.stderr.encoding if sys.stderr else "utf-8", "unwritable", line_buffering=True)
    if rank() is not None:
        sys.__stderr__ = sys.stderr  # type: ignore[misc]  # `fail` writes to it


def _silence_engine() -> None:
    """Keep what MLX's engine prints about a lost peer off stderr, and everything that a follower prints off stdout too."""
    ranks.stderr, nothing = os.dup(2), os.open(os.devnull, os.O_RDWR)
    for number in (2, *([1] if is_follower() else [])):
        os.dup2(nothing, number)


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


def fail(message: str, code: int) -> int:
    """Print an error as one line on stderr, even with `--quiet`, without the middle of a very long one. Returns the exit code."""
    text = " ".join(message.split()).encode("utf-8", "replace").decode("utf-8")
    if len(text) > LONGEST:  # it quotes a name or a value of a file; its end says what to do
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    ranks.tell(text)
    with suppress(OSError):
        note(f"diffucode: {text}", stream=sys.__stderr__)  # `--quiet` replaces `sys.stderr`, not this stream
    return code


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. It stops what Ctrl-C stops, and a chat, too, which continues after Ctrl-C."""


@contextmanager
def terminable() -> Iterator[list[int]]:
    """Raise `Terminated` on SIGTERM, so that what is finished is kept and the terminal is restored.

    Does nothing when the parent process made this one ignore SIGTERM. Yields the signals that arrived.
    """
    arrived: list[int] = []

    def end(number: int, frame: object) -> None:
        arrived.append(number)
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, so that a run can save and end after its step; a second one stops it at once.

    Yields the signals that arrived.
    """
    arrived: list[int] = []

    def note(number: int, frame: object) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            ending = before[number]
            if callable(ending):  # `terminable`, which notes the signal, too
                ending(number, frame)
            raise KeyboardInterrupt
        # Straight to the descriptor: the signal may have arrived in the middle of a print.
        with suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), b"saving after this step; press Ctrl-C again to stop at once\n")

    before: dict[int, Any] = {one: signal.signal(one, note) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def code_of(stop: BaseException) -> int:
    """The exit code as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
    cause: BaseException | None = stop
    while cause is not None:  # the parser wraps it in an error of its own
        if isinstance(cause, Terminated):
            return 128 + signal.SIGTERM
        cause = cause.__context__
    return 128 + signal.SIGINT


def can_draw(stream: TextIO) -> bool:
    """Whether a stream is a terminal whose cursor can be moved."""
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "") and stream.isatty()


def is_live(wanted: bool = True) -> bool:
    """Whether a canvas can be shown: stdout and stderr are terminals whose cursor can be moved."""
    return wanted and can_draw(sys.stdout) and can_draw(sys.stderr)


def is_file(stream: TextIO) -> bool:
    """Whether a stream writes to a regular file."""
    return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)


def print_numbers(lines: Mapping[str, str]) -> None:
    """Print what `-v` asks for on stderr: a label and a value a line, such as `Stats.lines` gives."""
    for label, value in lines.items():
        note(f"{label:>27}  {value}")


def read_prompt(argument: str | None) -> str:
    """The prompt: the argument, piped text, or both with the piped text last.

    Raises:
        DiffucoderError: there is neither.
        PromptError: stdin is not UTF-8 text.
    """
    parts = [argument] if argument and argument.strip() and argument != "-" else []
    # mlx.launch never closes the stdin of the processes that it starts.
    if sys.stdin is not None and not sys.stdin.isatty() and (rank() is None or argument == "-"):
        try:
            piped = sys.stdin.buffer.read().decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise PromptError(f"stdin is not UTF-8 text (byte {error.start}); convert it first, with iconv for example") from None
        if piped.strip():
            parts.append(piped)
    if not parts:
        advice = 'describe the code you want: diffucode generate "Write a function ..."'
        raise DiffucoderError(f"the prompt is empty; {advice}", field="PROMPT")
    return "\n\n".join(parts)


def edit_file(path: Path) -> None:
    """Open a file in `$VISUAL`, `$EDITOR` or vi, and wait.

    Raises:
        DiffucoderError: there is no terminal, or the editor cannot start or fails.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()):
        raise DiffucoderError(f"{path}: an editor needs a terminal")
    try:
        code = subprocess.run([*shlex.split(editor), os.fspath(path)]).returncode
    except (OSError, ValueError) as error:  # ValueError: a quote that is not closed
        reason = error.strerror if isinstance(error, OSError) else error
        raise DiffucoderError(f"{editor}: cannot be started ({reason}); set EDITOR to one that can") from None
    if code:
        raise DiffucoderError(f"{editor}: ended with exit code {code}; {path} is as the editor left it")


def edit_text(text: str) -> str:
    """Let the user edit a text. Returns the result without the last line break.

    Raises:
        DiffucoderError: as `edit_file`.
        ChatError: the result is not UTF-8 text.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="diffucode-") as folder:
        path = Path(folder) / "message.md"
        path.write_text(text + "\n", encoding="utf-8")
        edit_file(path)
        try:
            return path.read_text(encoding="utf-8-sig").rstrip("\n")
        except (OSError, UnicodeDecodeError):
            raise ChatError("the edited message is not UTF-8 text; the message stays as it was") from None
