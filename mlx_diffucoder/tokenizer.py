"""Text to ids and back, by the `tokenizers` library alone: no remote code is run.

The Hub's DiffuCoder folders carry a slow tokenizer (`vocab.json`, `merges.txt`) whose Python code
must be downloaded and trusted. It is Qwen2's byte-level BPE, so the fast one is built from the
same files; converted folders hold it as `tokenizer.json`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from .errors import CheckpointError, ConfigError, PromptError
from .files import read_json

# How Qwen2 cuts text before merging: digits one by one, line ends kept with what precedes them.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# An answer ends at the first of these that the vocabulary has, beside what the configuration names.
PAD_TOKEN = "<|dlm_pad|>"
END_TOKENS = ("<|im_end|>", "<|endoftext|>", PAD_TOKEN)

# How byte-level BPE writes bytes: those that are printable in Latin-1 as they are, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE}
_BYTES |= {chr(0x100 + place): byte for place, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)}


class Tokenizer:
    """A checkpoint's tokenizer, chat template and special ids.

    Attributes:
        mask_id: the id of "not decided yet".
        pad_id: the id behind the end of an answer, and on the left of shorter rows in a batch.
        end_ids: the ids at which an answer ends.
        chat_template: Jinja source, or None where the checkpoint has none.
    """

    def __init__(
        self,
        fast: tokenizers.Tokenizer,
        *,
        mask_id: int,
        pad_id: int,
        end_ids: Iterable[int],
        chat_template: str | None = None,
        settings: dict[str, Any] | None = None,
    ):
        self._fast = fast
        self._settings = settings or {}
        self._added = {token.content: id for id, token in fast.get_added_tokens_decoder().items()}
        self.mask_id = mask_id
        self.pad_id = pad_id
        self.end_ids = frozenset(end_ids)
        self.chat_template = chat_template

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any] | None = None) -> Self:
        """Read a checkpoint folder. Raises `CheckpointError` or `ConfigError`, naming the file.

        Args:
            config: a `config.json` that is to stand for the folder's own.
        """
        config = read_json(folder / "config.json") if config is None else config
        generation = _optional_json(folder / "generation_config.json")
        settings = _optional_json(folder / "tokenizer_config.json")
        fast = _read_fast(folder, settings)
        mask = config.get("mask_token_id")
        if not isinstance(mask, int):
            raise ConfigError(f"{folder / 'config.json'}: mask_token_id is missing; without it nothing can be denoised")
        named = [config.get("eos_token_id"), generation.get("eos_token_id"), config.get("pad_token_id")]
        named += [fast.token_to_id(token) for token in END_TOKENS]
        ends = _flat_ids(named) - {mask}
        pad = fast.token_to_id(PAD_TOKEN)  # what DiffuCoder puts behind an answer
        if pad is None:
            pad = config.get("pad_token_id")
        if not isinstance(pad, int) or not 0 <= pad < fast.get_vocab_size():
            pad = min(ends, default=0)
        template = _chat_template(folder, settings)
        return cls(fast, mask_id=mask, pad_id=pad, end_ids=ends, chat_template=template, settings=settings)

    @property
    def known_ids(self) -> NDArray[np.int64]:
        """Every id that stands for something, ascending."""
        return np.array(sorted(self.vocabulary.values()))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token, as the files spell it, and its id."""
        return self._fast.get_vocab(with_added_tokens=True)

    def end_id(self, *, chat: bool) -> int | None:
        """The id that a chat's answer, or any other text, ends with; None where no token ends one."""
        names = END_TOKENS if chat else END_TOKENS[1:]
        found = (self._fast.token_to_id(name) for name in names)
        return next((id for id in found if id in self.end_ids), min(self.end_ids, default=None))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written in it become control tokens. Raises `PromptError`."""
        _check_unicode(text)
        return self._fast.encode(text, add_special_tokens=False).ids

    def encode_chat(self, prompt: str, *, system: str | None = None) -> list[int]:
        """Ids of a chat of one user message (and a system message), up to where the answer starts.

        Special tokens of the template are control tokens; those written in the messages are text.

        Raises:
            PromptError: the text is not valid Unicode, or the template refuses the messages.
            CheckpointError: the checkpoint has no chat template, or one that does not parse.
        """
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return self.encode_messages(messages)

    def encode_messages(self, given: Iterable[Mapping[str, str]]) -> list[int]:
        """As `encode_chat`, of messages with a `role` and a `content` each."""
        messages = [dict(message) for message in given]
        for message in messages:
            _check_unicode(message["content"])
        # The messages' own special tokens are hidden from the template behind a mark that no
        # message contains, so that those left in what it renders are the template's.
        left, right = _unused_marks("".join(message["content"] for message in messages))
        hidden = [f"{left}{i}{right}" for i in range(len(self._added))]
        for message in messages:
            for token, name in zip(self._added, hidden, strict=True):
                message["content"] = message["content"].replace(token, name)
        rendered = self._render(messages)
        _check_unicode(rendered)
        ids: list[int] = []
        for piece in self._split_added.split(rendered):
            if piece in self._added:
                ids.append(self._added[piece])
                continue
            for token, name in zip(self._added, hidden, strict=True):
                piece = piece.replace(name, token)
            ids += self.encode_plain(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def piece(self, id: int) -> bytes:
        """What one id adds to a text: a byte-level token may end inside a character. Special tokens add nothing."""
        text = self._fast.decode([id], skip_special_tokens=True)
        token = self._fast.id_to_token(id) if "\ufffd" in text else None
        if token is None or not _BYTES.keys() >= set(token):
            return text.encode()
        return bytes(_BYTES[mark] for mark in token)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` (no remote code named) into `folder`."""
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
        """The same tokenizer with no added tokens: to it, their names are text like any other."""
        parts = json.loads(self._fast.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps(parts | {"added_tokens": [], "post_processor": None}))

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text` in which special tokens are text like any other. Raises `PromptError`."""
        _check_unicode(text)
        fast = self._plain if self._split_added.search(text) else self._fast
        return fast.encode(text, add_special_tokens=False).ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        if self.chat_template is None:
            raise CheckpointError("this checkpoint has no chat template: use --raw (GenerationConfig(raw=True))")
        names = {key: _content(self._settings[key]) for key in ("bos_token", "eos_token", "pad_token") if self._settings.get(key)}
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **names)
        except Exception as error:  # a template can raise anything that Python can
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"the checkpoint's chat template fails ({what}): use --raw to go without it") from None

    @cached_property
    def _template(self) -> jinja2.Template:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self.chat_template or "")


def _read_fast(folder: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            fast = tokenizers.Tokenizer.from_file(str(path))
            fast.no_truncation()
            fast.no_padding()
            return fast
        except Exception as error:  # the library raises no narrower class
            raise CheckpointError(f"{path}: not a tokenizer ({error}); download the file again") from None
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists():
            raise CheckpointError(f"{folder}: has neither tokenizer.json nor {name}")
    return _build_fast(folder, settings)


def _build_fast(folder: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """Qwen2's tokenizer from the slow one's files."""
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # as above
        raise CheckpointError(f"{folder}: vocab.json and merges.txt make no tokenizer ({error})") from None
    fast = tokenizers.Tokenizer(model)
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    added = settings.get("added_tokens_decoder") or _added_by_name(folder)
    try:
        for id, token in sorted((int(id), token) for id, token in added.items()):
            flags = {key: bool(token.get(key)) for key in ("lstrip", "rstrip", "single_word", "normalized", "special")}
            fast.add_tokens([AddedToken(token["content"], **flags)])
            if (found := fast.token_to_id(token["content"])) != id:
                raise CheckpointError(
                    f"{folder / 'tokenizer_config.json'}: added_tokens_decoder gives {token['content']!r} the id {id}, but"
                    f" vocab.json makes it {found}"
                )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder cannot be read") from None
    return fast


def _added_by_name(folder: Path) -> dict[str, dict[str, Any]]:
    """`added_tokens.json` in the form of `added_tokens_decoder`."""
    names = _optional_json(folder / "added_tokens.json")
    return {str(id): {"content": content, "special": True} for content, id in names.items()}


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error})") from None
    template = settings.get("chat_template") or _optional_json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):  # several named ones
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: chat_template is no text")
    return template


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _flat_ids(values: Iterable[Any]) -> set[int]:
    """Ids from values that may be an id, a list of ids, or None."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    return {id for ids in lists for id in ids if isinstance(id, int) and 0 <= id < 2**31}


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _unused_marks(text: str) -> tuple[str, str]:
    """Two characters that do not stand in `text`, from a plane of Unicode that is set aside for private use."""
    used = set(text)
    unused = (mark for mark in map(chr, range(0x10FFFD, 0xF0000, -1)) if mark not in used)
    return next(unused), next(unused)


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is not valid Unicode text: character {error.start} is half of a pair") from None


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
