"""What is said in a chat: typed at a terminal, with line editing and a history, or piped in as a script."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import ChatError, PromptError

BLOCK = '"""'
PROMPT, MORE = ">>> ", "... "
KEPT = 1000
"""Lines in the history."""


class Entry(NamedTuple):
    """One thing said; in a block nothing is a command."""

    text: str
    block: bool


class Lines:
    """Stdin, an entry at a time.

    An entry is a line; or lines of which all but the last end with a backslash; or a block, whatever
    stands from one three quotes to the next.

    Attributes:
        typed: whether it comes from a terminal.
    """

    def __init__(self) -> None:
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        self.empty_handed = True
        """Whether nothing was typed yet where Ctrl-C came."""

    def read(self) -> Entry | None:
        """The next entry, or None at the end.

        Raises:
            PromptError: it is not text.
            ChatError: the end came within a block.
        """
        line = self._line(PROMPT)
        if line is None:
            return None
        if line.lstrip().startswith(BLOCK):
            return Entry(self._block(line.lstrip().removeprefix(BLOCK)), True)
        while _goes_on(line):
            more = self._line(MORE)
            line = line[:-1] + ("" if more is None else "\n" + more)
        return Entry(line, False)

    def _block(self, text: str) -> str:
        while not text.rstrip().endswith(BLOCK):
            more = self._line(MORE)
            if more is None:
                raise ChatError(f"the block that {BLOCK} opened is not closed, so nothing of it was sent; end it with {BLOCK}")
            text += "\n" + more
        return text.rstrip().removesuffix(BLOCK).strip("\n")

    def _line(self, prompt: str) -> str | None:
        """A line without its end, or None where there is none."""
        if not self.typed:
            return _decoded(sys.stdin.buffer.readline()) if sys.stdin is not None else None
        self.empty_handed = prompt == PROMPT
        try:
            line = input(prompt) if sys.stdout.isatty() else self._without_editing(prompt)
        except EOFError:
            print(file=sys.stderr)
            return None
        except KeyboardInterrupt:
            self.empty_handed = self.empty_handed and not _typed_so_far()
            raise
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            raise PromptError("that is not valid Unicode text; it was not sent") from None
        return line

    def _without_editing(self, prompt: str) -> str:
        """As `input`, but what it shows goes to stderr: stdout is a file's."""
        print(prompt, end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.readline()):
            raise EOFError
        return line.removesuffix("\n")


def _goes_on(line: str) -> bool:
    """Whether it ends with a backslash that no other one stands before."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _decoded(line: bytes) -> str | None:
    if not line:
        return None
    try:
        return line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(f"stdin is not UTF-8 text (byte {error.start} of a line); convert it first, with iconv") from None


def _typed_so_far() -> str:
    try:
        import readline
    except ImportError:
        return ""
    return readline.get_line_buffer()


@contextmanager
def history(typed: bool) -> Iterator[None]:
    """Line editing, and the lines of earlier chats, where there is a terminal and Python has readline.

    The file is its owner's alone, in the user's state folder. A history that cannot be kept is no
    reason not to chat.
    """
    try:
        import readline
    except ImportError:
        typed = False
    if not typed:
        yield
        return
    from platformdirs import user_state_path

    if os.environ.get("TERM") not in (None, "", "dumb"):
        readline.parse_and_bind("set enable-bracketed-paste on")  # several lines that are pasted are one message
    path = user_state_path("diffucode", appauthor=False) / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)
        readline.read_history_file(path)
    except OSError as error:
        print(f"{path}: no history is kept ({error.strerror})", file=sys.stderr)
        yield
        return
    readline.set_history_length(KEPT)
    try:
        yield
    finally:
        try:
            readline.write_history_file(path)
        except OSError as error:
            print(f"{path}: the history is not kept ({error.strerror})", file=sys.stderr)
