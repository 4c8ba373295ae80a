"""Text to token ids and back, by the `tokenizers` library alone: no remote code is run."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

from .chat_template import render
from .errors import CheckpointError, ConfigError, ContextError, PromptError
from .files import read_json
from .models import family_of
from .models.base import SpecialIds, ids_of
from .models.config_keys import refuse_unsupported
from .tokenizer_files import added_tokens, read_chat_template, read_fast, read_optional_json, token_text

# How byte-level BPE writes bytes: those that are printable in Latin-1 unchanged, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE}
_BYTES |= {chr(0x100 + number): byte for number, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)}
SLACK = 16
"""Tokens more, at most, that a piece of a text has by itself: its first and last word are cut."""


class Tokenizer:
    """A checkpoint's tokenizer, chat template and special ids.

    Attributes:
        mask_id: the mask token, of positions that are not decided yet.
        pad_id: the token after the end of an answer, and on the left of shorter rows in a batch.
        end_ids: the tokens at which an answer ends.
        sizes: the tokens that change the length of a hole; None for models that do not.
        chat_template: Jinja source, or None where the checkpoint has none.

    Args:
        fast: the tokenizer of the `tokenizers` library.
        special: the checkpoint's special ids.
        settings: `tokenizer_config.json`, parsed; `save` writes it again.
    """

    def __init__(
        self,
        fast: tokenizers.Tokenizer,
        special: SpecialIds,
        *,
        chat_template: str | None = None,
        settings: dict[str, Any] | None = None,
    ):
        self._fast = fast
        self._settings = settings or {}
        added = fast.get_added_tokens_decoder()
        self._added = {token.content: id for id, token in added.items()}
        self._special_tokens = tuple(token.content for token in added.values() if token.special)
        self._special = special
        self.mask_id = special.mask
        self.pad_id = special.pad
        self.end_ids = special.ends
        self.sizes = special.sizes
        self.chat_template = chat_template

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any] | None = None) -> Self:
        """Read the tokenizer of a checkpoint folder.

        Args:
            config: replaces the folder's `config.json`.

        Raises:
            CheckpointError, ConfigError: a file is missing, damaged or of no family that is known; the message
                names it.
        """
        path = folder / "config.json"
        config = read_json(path) if config is None else config
        generation = read_optional_json(folder / "generation_config.json")
        settings = read_optional_json(folder / "special_tokens_map.json") | read_optional_json(folder / "tokenizer_config.json")
        fast = read_fast(folder, settings)
        try:
            family = family_of(config, added_tokens(folder))
            path = folder / "generation_config.json"
            refuse_unsupported({key: value for key, value in generation.items() if key not in family.own_keys})
            ids_of(generation, "eos_token_id")
            path, eos = folder / "config.json", token_text(settings.get("eos_token"))
            special = family.special_ids(config, generation, fast.token_to_id, fast.get_vocab_size(), eos)
            _check_mask(special.mask, token_text(settings.get("mask_token")), fast)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return cls(fast, special, chat_template=read_chat_template(folder, settings), settings=settings)

    @cached_property
    def known_ids(self) -> NDArray[np.int64]:
        """The ids that have a token, ascending, int64 `[n]`."""
        return np.array(sorted(self.vocabulary.values()))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token, spelt as in the files, and its id."""
        return self._fast.get_vocab(with_added_tokens=True)

    @cached_property
    def longest_token(self) -> int:
        """The characters of the longest token."""
        return max(map(len, self.vocabulary), default=1)

    def end_id(self, *, chat: bool) -> int | None:
        """The token to end a chat's answer with, or any other text; None where the checkpoint has no such token."""
        return self._special.chat_end if chat else self._special.text_end

    def starts_with_special(self, text: str) -> bool:
        """Whether a text begins with a special token, white space aside, as a rendered chat does."""
        return text.lstrip().startswith(self._special_tokens)

    def split_end(self, text: str) -> tuple[str, int | None]:
        """A text without the end tokens that close it, and the id of the first of these; None without one.

        White space between and after them goes, too.
        """
        ends = {token: id for token, id in self._added.items() if id in self.end_ids}
        found = None
        while token := next((token for token in ends if text.rstrip().endswith(token)), None):
            text, found = text.rstrip().removesuffix(token), ends[token]
        return text, found

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Special tokens written in it become control tokens.

        Raises:
            PromptError: the text is not valid Unicode.
        """
        _check_unicode(text)
        return self._fast.encode(text, add_special_tokens=False).ids

    def encode_chat(self, prompt: str, *, system: str | None = None) -> list[int]:
        """Ids of a chat with one user message (and a system message), up to the start of the answer.

        Special tokens of the template are control tokens. Those written in the messages are ordinary text.

        Raises:
            PromptError: the text is not valid Unicode, or the template refuses the messages.
            CheckpointError: the checkpoint has no chat template, or one that fails.
        """
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return self.encode_messages(messages)

    def encode_messages(self, given: Iterable[Mapping[str, str]]) -> list[int]:
        """`encode_chat` of several messages, each with a `role` and a `content`. Raises as `encode_chat`."""
        return self.encode_chats([given])[0]

    def encode_chats(self, given: Iterable[Iterable[Mapping[str, str]]]) -> list[list[int]]:
        """`encode_messages` of several chats, which takes less time than one by one. Raises as `encode_chat`."""
        chats = [[dict(message) for message in messages] for messages in given]
        contents = "".join(message["content"] for messages in chats for message in messages)
        _check_unicode(contents)
        # Special tokens in the messages are replaced by marks that no message contains. So every special token
        # in the rendered text is the template's own.
        left, right = _unused_marks(contents)
        hidden = {token: f"{left}{i}{right}" for i, token in enumerate(self._added)}
        for messages in chats:
            for message in messages:
                for token, name in hidden.items():
                    message["content"] = message["content"].replace(token, name)
        return [self._ids_of(rendered, hidden) for rendered in self._render(chats)]

    def _ids_of(self, rendered: str, hidden: Mapping[str, str]) -> list[int]:
        """The ids of a rendered chat. `hidden` holds what stands for each added token in the messages."""
        _check_unicode(rendered)
        ids: list[int] = []
        for piece in self._split_added.split(rendered):
            if piece in self._added:
                ids.append(self._added[piece])
                continue
            for token, name in hidden.items():
                piece = piece.replace(name, token)
            ids += self.encode_plain(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens. Bytes that are not valid UTF-8 become U+FFFD."""
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def piece(self, id: int) -> bytes:
        """The bytes that one id adds to a text. They may end inside a character. Special tokens add nothing."""
        text = self._fast.decode([id], skip_special_tokens=True)
        token = self._fast.id_to_token(id) if "\ufffd" in text else None
        if token is None or not _BYTES.keys() >= set(token):
            return text.encode()
        return bytes(_BYTES[mark] for mark in token)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` (without references to remote code) into `folder`."""
        self._fast.save(str(folder / "tokenizer.json"))
        settings = {key: value for key, value in self._settings.items() if key != "auto_map"}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    @cached_property
    def _split_added(self) -> re.Pattern[str]:
        longest_first = sorted(self._added, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else re.compile("(?!)")

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer without added tokens. It takes their names for ordinary text."""
        parts = json.loads(self._fast.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps(parts | {"added_tokens": [], "post_processor": None}))

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text` in which special tokens are ordinary text. Raises as `encode`."""
        _check_unicode(text)
        fast = self._plain if self._split_added.search(text) else self._fast
        return fast.encode(text, add_special_tokens=False).ids

    def check_length(self, text: str, limit: int) -> None:
        """Raise `PromptError` for a text that cannot have as few as `limit` tokens, before all of it is encoded.

        A text that passes may be longer all the same.
        """
        size = 4 * max(1, limit)  # about as many characters as code has in `limit` tokens
        pieces = (text[start : start + size] for start in range(0, len(text), size) if len(text) > size)
        counts = accumulate(len(self.encode_plain(piece)) - SLACK for piece in pieces)
        if len(text) > self.longest_token * limit or any(count > limit for count in counts):
            raise ContextError(
                f"{len(text)} characters are more than the {limit} tokens of the model's context; shorten the text"
            )

    def _render(self, chats: list[list[dict[str, str]]]) -> list[str]:
        if self.chat_template is None:
            raise CheckpointError("this checkpoint has no chat template: use --raw (GenerationConfig(raw=True))")
        named = {key: value for key, value in self._settings.items() if key.endswith("_token")}
        tokens = {key: token_text(value) for key, value in named.items()}
        return render(self.chat_template, chats, {key: text for key, text in tokens.items() if text is not None})


def _unused_marks(text: str) -> tuple[str, str]:
    """Two characters that `text` does not contain, from one of Unicode's private-use planes."""
    used = set(text)
    unused = (mark for mark in map(chr, range(0x10FFFD, 0xF0000, -1)) if mark not in used)
    return next(unused), next(unused)


def _check_mask(mask: int, name: str | None, fast: tokenizers.Tokenizer) -> None:
    """Raise `ConfigError` where the tokenizer lacks the mask or, in its settings, names another token as the mask."""
    if fast.id_to_token(mask) is None:
        raise ConfigError(f"mask_token_id {mask} is no token of the tokenizer; download config.json and the tokenizer again")
    named = fast.token_to_id(name) if name else None
    if named not in (None, mask):
        raise ConfigError(f"mask_token_id is {mask}, but mask_token of the tokenizer, {name}, is {named}; correct the wrong one")


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        near = ascii(text[max(0, error.start - 20) : error.start + 20])
        raise PromptError(f"{near} is not valid Unicode text: character {error.start} is half of a pair") from None
