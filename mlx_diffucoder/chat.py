"""A conversation: its turns, the turns that fit a model's context, and its file."""

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .errors import ChatError
from .file_kinds import read_bytes
from .files import check_output, write_atomically

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

VERSION = 1


@dataclass(frozen=True)
class Turn:
    """A message and its answer; of an answer that was stopped, the finished part."""

    user: str
    answer: str


@dataclass(frozen=True)
class Chat:
    """The system message and the turns so far. Adding a turn makes a new object."""

    system: str | None = None
    turns: tuple[Turn, ...] = ()

    def with_turn(self, user: str, answer: str) -> Self:
        """The chat with one more turn."""
        return type(self)(self.system, (*self.turns, Turn(user, answer)))

    def messages(self, user: str, dropped: int = 0) -> list[dict[str, str]]:
        """The chat template's messages up to a new message of the user, without the oldest `dropped` turns."""
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        for turn in self.turns[dropped:]:
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.answer}]
        return [*messages, {"role": "user", "content": user}]

    def prompt(self, tokenizer: "Tokenizer", user: str, limit: int) -> tuple[list[int], int]:
        """The ids of the chat with a new message, without as many of the oldest turns as `limit` ids require.

        The system message and the new message always stay, even if they are longer than `limit`. Returns also how many
        turns are left out.

        Raises:
            PromptError, CheckpointError: as `Tokenizer.encode_messages`.
        """

        def ids(dropped: int) -> list[int]:
            return tokenizer.encode_messages(self.messages(user, dropped))

        dropped = bisect_left(range(len(self.turns)), True, key=lambda count: len(ids(count)) <= limit)
        return ids(dropped), dropped

    def save(self, path: Path) -> None:
        """Write the chat as JSON. An existing file is replaced only if it is a saved chat.

        Raises:
            ChatError: the file cannot be written, or exists and is not a saved chat.
        """
        check_output(path, '"diffucode_chat"', "a saved chat", flag="/save", error=ChatError)
        try:
            text = json.dumps({"diffucode_chat": VERSION, **asdict(self)}, indent=1, ensure_ascii=False)
            write_atomically(path, text + "\n", private=True)
        except OSError as error:
            raise ChatError(f"{path}: cannot be written ({error.strerror}); name another file") from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises `ChatError`, which names the file and what is wrong with it."""
        try:
            kept = json.loads(read_bytes(path, ChatError))
            json.dumps(kept, ensure_ascii=False).encode()  # half of a surrogate pair, which JSON can spell, is no text
        except (ValueError, RecursionError) as error:
            raise ChatError(f"{path}: damaged, or not a saved chat ({error})") from None
        version = kept.get("diffucode_chat") if isinstance(kept, dict) else None
        if not isinstance(version, int):
            raise ChatError(f"{path}: not a saved chat (it has no diffucode_chat)")
        if version != VERSION:
            raise ChatError(
                f"{path}: a chat of version {version}, but this program reads version {VERSION}; use the one that saved it"
            )
        return cls._of(path, kept)

    @classmethod
    def _of(cls, path: Path, kept: Mapping[str, Any]) -> Self:
        system, turns = kept.get("system"), kept.get("turns")
        if not isinstance(system, str | None):
            raise ChatError(f"{path}: damaged: system is not text")
        if not isinstance(turns, list):
            raise ChatError(f"{path}: damaged: turns is not a list")
        for number, turn in enumerate(turns, 1):
            if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("user", "answer")):
                raise ChatError(f"{path}: damaged: turn {number} is not a user's text and an answer")
        return cls(system, tuple(Turn(turn["user"], turn["answer"]) for turn in turns))
