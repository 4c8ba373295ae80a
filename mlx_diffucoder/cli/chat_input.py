"""The messages of a chat: typed at a terminal, with line editing, history and completion, or piped in as a script."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ChatError, PromptError
from ..file_kinds import LARGEST_JSON, check_regular, read_bytes
from .terminal import can_draw, note

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

BLOCK = '"""'
PROMPT, MORE = ">>> ", "... "
KEPT = 1000
"""Messages in the history."""
LIBEDIT = "_HiStOrY_V2_"


class Message(NamedTuple):
    """One message; inside a block nothing is a command."""

    text: str
    block: bool


def open_input(completions: Mapping[str, Sequence[str] | None]) -> "PlainInput | EditedInput":
    """The input that suits this terminal, or stdin as it is.

    Args:
        completions: for each command, `/save` for example, what it takes: words to choose from, or None for a file.
    """
    typed = sys.stdin is not None and sys.stdin.isatty()
    if typed and can_draw(sys.stdout):
        return EditedInput(completions)
    return PlainInput(typed)


class PlainInput:
    """Stdin line by line: a script, or a terminal that cannot move its cursor.

    A message is a line; or lines of which all but the last end with a backslash; or a block: everything between
    three quotes and the next three.

    Attributes:
        typed: whether a person types them at a terminal.
        empty: whether nothing was typed yet when Ctrl-C came.
    """

    def __init__(self, typed: bool):
        self.typed, self.empty = typed, True

    def read(self) -> Message:
        """The next message.

        Raises:
            EOFError: the input has ended.
            PromptError: it is not valid text.
            ChatError: the input ended inside a block.
        """
        line = self._line(PROMPT)
        if line is None:
            raise EOFError
        if (text := _opened(line)) is not None:
            return Message(self._block(text), True)
        while _continues(line):
            more = self._line(MORE)
            line = line[:-1] + ("" if more is None else "\n" + more)
        return Message(line, False)

    def _block(self, text: str) -> str:
        while not _closes(text):
            more = self._line(MORE)
            if more is None:
                raise ChatError(f"the block that {BLOCK} opened is not closed, so nothing of it was sent; end it with {BLOCK}")
            text += "\n" + more
        return _closed(text)

    def _line(self, prompt: str) -> str | None:
        """A line without its end, or None at the end of the input."""
        if not self.typed:
            return _decoded(sys.stdin.buffer.readline()) if sys.stdin is not None else None
        self.empty = prompt == PROMPT
        stream = sys.stdout if sys.stdout.isatty() else sys.stderr
        stream.write(prompt)
        stream.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            note()
            raise
        if not line:
            note()
            return None
        return _checked(line.removesuffix("\n"))


class EditedInput:
    """A terminal, by prompt_toolkit: pasted lines are one message, Tab completes commands, old messages come back.

    Enter sends the message. It starts a new line after a backslash and inside a block; Alt-Enter always does.
    """

    typed = True

    def __init__(self, completions: Mapping[str, Sequence[str] | None]):
        self.empty = True
        self._session = _session(completions, open_history())

    def read(self) -> Message:
        """As `PlainInput.read`; a block that is not closed cannot be sent."""
        try:
            text = self._session.prompt()
        except KeyboardInterrupt:
            self.empty = not self._session.default_buffer.text
            raise
        body = _opened(_checked(text))
        return Message(text, False) if body is None else Message(_closed(body), True)


def _session(completions: Mapping[str, Sequence[str] | None], history: "History") -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output.vt100 import Vt100_Output
    from prompt_toolkit.shortcuts import CompleteStyle

    output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
    output.enable_cpr = False  # not every terminal answers where its cursor is, and nothing here needs to know
    return PromptSession(
        PROMPT,
        multiline=True,
        prompt_continuation=MORE,
        history=history,
        key_bindings=_keys(),
        completer=_completer(completions),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        reserve_space_for_menu=0,
        enable_suspend=True,
        output=output,
    )


def _keys() -> "KeyBindings":
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()
    message = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=message)
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        body = _opened(buffer.text)
        if body is not None and not _closes(body):
            buffer.insert_text("\n")
        elif body is None and not buffer.document.text_after_cursor and _continues(buffer.text):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=message)
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _completer(completions: Mapping[str, Sequence[str] | None]) -> "Completer":
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class Commands(Completer):
        """A command at the start of a message, then what it takes."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            command, blank, rest = document.text_before_cursor.partition(" ")
            if blank and completions.get(command, ()) is None:
                yield from PathCompleter(expanduser=True).get_completions(Document(rest), event)
                return
            begun, words = (rest, completions.get(command) or ()) if blank else (command, completions)
            for word in words if begun or blank else ():
                if word.startswith(begun):
                    yield Completion(word, start_position=-len(begun))

    return Commands()


def open_history() -> "History":
    """The messages of earlier chats, in a file that only its owner can read, in the user's state folder.

    If the file cannot be used, a notice says so and the history is kept for this chat only. A history that an older
    version kept with readline is converted.
    """
    from platformdirs import user_state_path
    from prompt_toolkit.history import InMemoryHistory

    path = user_state_path("diffucode", appauthor=False) / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_regular(path, ChatError)  # a pipe would wait for a reader
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)
        return _file_history(path)
    except (OSError, ChatError) as error:
        note(f"{path}: no history is kept ({getattr(error, 'strerror', error)})")
        return InMemoryHistory()


def _file_history(path: Path) -> "History":
    from prompt_toolkit.history import FileHistory

    from ..files import write_atomically

    class ChatHistory(FileHistory):
        """Goes on when the file can no longer be written: a lost history is no reason to stop a chat."""

        def store_string(self, string: str) -> None:
            with suppress(OSError):
                super().store_string(string)

    old = list(_readline_messages(path))
    kept = old or list(ChatHistory(path).load_history_strings())[::-1]
    if old or len(kept) > KEPT:
        write_atomically(path, "".join(map(_stored, kept[-KEPT:])), private=True)
    return ChatHistory(path)


def _stored(message: str) -> str:
    """A message as prompt_toolkit's history files have it."""
    return "\n# an earlier chat\n" + "".join(f"+{line}\n" for line in message.split("\n"))


def _readline_messages(path: Path) -> Iterator[str]:
    """The lines of a history file by GNU readline or libedit; none of one by prompt_toolkit, which starts with a blank line."""
    lines = read_bytes(path, ChatError, LARGEST_JSON).decode("utf-8", "replace").split("\n")
    if not lines[0]:
        return
    for line in lines[1:] if lines[0] == LIBEDIT else lines:
        if line:
            yield _unescaped(line) if lines[0] == LIBEDIT else line


def _unescaped(line: str) -> str:
    """libedit writes blanks and special characters as a backslash and three octal digits."""
    import re

    data = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), line.encode())
    return data.decode("utf-8", "replace")


def _opened(text: str) -> str | None:
    """What follows the three quotes that a text starts with; None where it starts with none."""
    return text.lstrip().removeprefix(BLOCK) if text.lstrip().startswith(BLOCK) else None


def _closes(text: str) -> bool:
    return text.rstrip().endswith(BLOCK)


def _closed(text: str) -> str:
    return text.rstrip().removesuffix(BLOCK).strip("\n")


def _continues(line: str) -> bool:
    """Whether it ends with an odd number of backslashes."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptError("that is not valid Unicode text; it was not sent") from None
    return text


def _decoded(line: bytes) -> str | None:
    if not line:
        return None
    try:
        return line.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(f"stdin is not UTF-8 text (byte {error.start} of a line); convert it first, with iconv") from None
