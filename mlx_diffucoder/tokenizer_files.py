"""The parts of a tokenizer from a checkpoint's files: the fast tokenizer, its settings and its chat template.

The Hub's DiffuCoder folders have only a slow tokenizer (`vocab.json`, `merges.txt`), whose Python code would have to be
downloaded and trusted. It is Qwen2's byte-level BPE, so the fast one is built from the same files. Converted folders
hold it as `tokenizer.json`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from .config import is_number
from .errors import CheckpointError
from .file_kinds import check_regular, known_content, read_bytes
from .files import read_json

# How Qwen2 splits text before merging: every digit alone, line ends kept with what precedes them.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LARGEST = 2**26
"""Bytes of a file of a tokenizer, at most. Those of vocabularies of 260,000 tokens have half of it."""
LARGEST_TEMPLATE = 2**18

COPIED = (
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What a new checkpoint takes unchanged from the one it is made of; `Tokenizer.save` writes the rest. Never code."""

TOKEN_FILES = ("added_tokens.json", "tokenizer_config.json")
"""Where the added tokens are named."""


def copy_unchanged(source: Path, folder: Path) -> None:
    """Copy those of the `COPIED` files that a checkpoint has into the folder of a new one."""
    for name in COPIED:
        check_regular(source / name)
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def read_fast(folder: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """The fast tokenizer of a folder, from `tokenizer.json` or else built from the slow one's files.

    Args:
        settings: `tokenizer_config.json`, parsed.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = folder / "tokenizer.json"
    check_regular(path, most=LARGEST)
    if path.exists():
        try:
            fast = tokenizers.Tokenizer.from_file(str(path))
            fast.no_truncation()
            fast.no_padding()
            return fast
        except BaseException as error:  # the library raises no narrower class
            _check_of_library(error)
            what = known_content(path) or f"not a tokenizer ({error}); download the file again"
            raise CheckpointError(f"{path}: {what}") from None
    for name in ("vocab.json", "merges.txt"):
        check_regular(folder / name, most=LARGEST)
        if not (folder / name).exists():
            raise CheckpointError(f"{folder}: has neither tokenizer.json nor {name}")
    return _build_fast(folder, settings)


def _check_of_library(error: BaseException) -> None:
    """Raise what does not come from the library. A panic of its Rust code is no `Exception`, and has no class to import."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _build_fast(folder: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """Qwen2's tokenizer from the slow one's files."""
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except BaseException as error:  # as above
        _check_of_library(error)
        for name in ("vocab.json", "merges.txt"):
            if what := known_content(folder / name):
                raise CheckpointError(f"{folder / name}: {what}") from None
        raise CheckpointError(f"{folder}: vocab.json and merges.txt do not make a tokenizer ({error})") from None
    _check_merges(folder)
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
            flags = {key: token.get(key, False) for key in ("lstrip", "rstrip", "single_word", "normalized", "special")}
            fast.add_tokens([AddedToken(token["content"], **flags)])
            if (found := fast.token_to_id(token["content"])) != id:
                raise CheckpointError(
                    f"{folder / 'tokenizer_config.json'}: added_tokens_decoder gives {token['content']!r} the id {id}, but"
                    f" vocab.json makes it {found}"
                )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder cannot be read") from None
    return fast


def _check_merges(folder: Path) -> None:
    """Raise `CheckpointError` for a `merges.txt` whose end is missing: it is valid, and the ids of a text are others."""
    lines = read_bytes(folder / "merges.txt").splitlines()
    merges = sum(bool(line) and not line.startswith(b"#version") for line in lines)
    needed = sum(len(token) > 1 for token in read_json(folder / "vocab.json"))
    if merges < needed:
        raise CheckpointError(
            f"{folder / 'merges.txt'}: has {merges} merges, and the tokens of vocab.json need {needed}; download both again"
        )


def added_tokens(folder: Path) -> dict[str, int]:
    """The ids of the tokens that were added to a folder's tokenizer, by their text, as `TOKEN_FILES` name them.

    Raises:
        CheckpointError: a file cannot be read.
    """
    decoder = read_optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    by_id = decoder.items() if isinstance(decoder, dict) else ()
    named: dict[str | None, Any] = {token_text(token): int(id) for id, token in by_id if id.isdecimal()}
    named.update(read_optional_json(folder / "added_tokens.json"))
    return {name: id for name, id in named.items() if name is not None and is_number(id, int)}


def token_text(token: Any) -> str | None:
    """The text of a token as a tokenizer's settings state it: the text, or an object with its `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _added_by_name(folder: Path) -> dict[str, dict[str, Any]]:
    """`added_tokens.json` in the form of `added_tokens_decoder`."""
    names = read_optional_json(folder / "added_tokens.json")
    return {str(id): {"content": content, "special": True} for content, id in names.items()}


def read_chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The Jinja source of a folder's chat template, or None. Raises `CheckpointError` where it cannot be read."""
    file = folder / "chat_template.jinja"
    if file.exists():
        try:
            text = read_bytes(file, most=LARGEST_TEMPLATE).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file}: not UTF-8 text (byte {error.start})") from None
        if text.startswith("version https://git-lfs"):
            raise CheckpointError(f"{file}: {known_content(file)}")
        return text
    template = settings.get("chat_template") or read_optional_json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):  # several, by name
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: chat_template is not text")
    return template


def read_optional_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is no file. Raises `CheckpointError`, naming the file.

    Half of a surrogate pair is refused: JSON can spell it, but the tokenizer cannot take it.
    """
    value = read_json(path) if path.exists() else {}
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            f"{path}: holds half of a Unicode surrogate pair, which is no text; download the file again"
        ) from None
    return value
