"""The JSON that an editor sends on stdin: the text around the holes, and an instruction."""

from typing import Any

from ..errors import FileError
from ..files import json_object
from .context import Part, texts_and_lengths
from .file import named

KEYS = {"prefix", "suffix", "parts", "instruction"}


def read_request(data: bytes) -> tuple[list[Part], str | None] | None:
    """The parts and the instruction of an editor's request; None if the data is not such a JSON object.

    Raises:
        FileError, PromptError: it is a request with a wrong key or value.
    """
    given = json_object(data)
    if given is None or not given.keys() & KEYS:
        return None
    if unknown := given.keys() - KEYS:
        raise FileError(f"stdin: unknown key {min(unknown)!r}; give prefix and suffix, or parts, and instruction")
    if "parts" in given and given.keys() & {"prefix", "suffix"}:
        raise FileError("stdin: parts replaces prefix and suffix; give either")
    if "parts" in given:
        with named("stdin"):
            texts_and_lengths(given["parts"])
        return given["parts"], _text(given, "instruction")
    return [_text(given, "prefix") or "", None, _text(given, "suffix") or ""], _text(given, "instruction")


def _text(given: dict[str, Any], key: str) -> str | None:
    if given.get(key) is not None and not isinstance(given[key], str):
        raise FileError(f"stdin: {key} must be text")
    return given.get(key)
