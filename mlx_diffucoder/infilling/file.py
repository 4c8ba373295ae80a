"""A file cut at its holes, in bytes, and put together again: what is outside the holes is never decoded."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError, PromptError
from ..files import write_atomically

BOM = b"\xef\xbb\xbf"
CLOSING = ">]})"


@dataclass(frozen=True)
class Source:
    """A text with holes.

    Attributes:
        name: of the file, for messages.
        pieces: the bytes around the holes, one more than there are holes.
        lengths: of the holes; None where it is to be found.
        data: all bytes of the file, what the holes stand in the place of included.
    """

    name: str
    pieces: list[bytes]
    lengths: list[int | None]
    data: bytes

    @property
    def encoding(self) -> str:
        """UTF-8, or where it is not that, Latin-1, in which every byte is a character."""
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError:
            return "latin-1"
        return "utf-8"

    @property
    def newline(self) -> str:
        """How most lines of the file end."""
        crlf = self.data.count(b"\r\n")
        return "\r\n" if 2 * crlf > self.data.count(b"\n") else "\n"

    @property
    def parts(self) -> list[str | int | None]:
        """As `fill` has them."""
        texts = [piece.decode(self.encoding) for piece in self.pieces]
        return [*(part for pair in zip(texts, self.lengths, strict=False) for part in pair), texts[-1]]

    def filled(self, holes: Sequence[str]) -> bytes:
        """The file with its holes filled, in its own encoding and with its own line ends."""
        encoded = [self._encoded(text) for text in holes]
        return b"".join(piece + hole for piece, hole in zip(self.pieces, [*encoded, b""], strict=True))

    def _encoded(self, text: str) -> bytes:
        try:
            return text.replace("\n", self.newline).encode(self.encoding)
        except UnicodeEncodeError as error:
            raise FileError(
                f"{self.name}: is not UTF-8, and what was filled in has a character that Latin-1 lacks"
                f" ({text[error.start]!r}); convert the file first, with iconv for example"
            ) from None


def read_bytes(path: Path) -> bytes:
    """All of a file, or of stdin where it is `-`. Raises `FileError` where it cannot be read or is no text."""
    name = name_of(path)
    try:
        data = sys.stdin.buffer.read() if name == "stdin" else path.read_bytes()
    except OSError as error:
        raise FileError(f"{name}: cannot be read ({error.strerror})") from None
    if b"\0" in data:
        raise FileError(f"{name}: is binary (it holds a NUL byte); only text can be filled in, as UTF-8 for example")
    return data


def name_of(path: Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Of what is wrong with a text, and not with a flag, say in which file."""
    try:
        yield
    except PromptError as error:
        if error.field is None:
            raise PromptError(f"{name}: {error}") from None
        raise


def cut(name: str, data: bytes, marker: str, at: str | None, lines: str | None) -> Source:
    """The file's bytes, cut where its markers or the flags say.

    Raises:
        FileError: it has no hole there; the message names file or flag.
    """
    if at is not None and lines is not None:
        raise FileError("--at and --lines each say where the hole is; give one of them")
    if at is not None:
        return _cut(name, data, *_place(name, data, at))
    if lines is not None:
        return _cut(name, data, *_range(name, data, lines))
    return _marked(name, data, marker)


def _cut(name: str, data: bytes, start: int, stop: int) -> Source:
    return Source(name, [data[:start], data[stop:]], [None], data)


def _marked(name: str, data: bytes, marker: str) -> Source:
    if not marker.strip() or "\n" in marker:
        raise FileError(f"--marker must be a word or more on one line, not {marker!r}")
    body, close = (marker[:-1], marker[-1]) if marker[-1] in CLOSING and len(marker) > 1 else (marker, "")
    pattern = re.compile(re.escape(body.encode()) + rb"(?::([0-9]+))?" + re.escape(close.encode()))
    pieces, lengths, behind = [], list[int | None](), 0
    for found in pattern.finditer(data):
        pieces.append(data[behind : found.start()])
        behind = found.end()
        lengths.append(_length(name, found[1], data.count(b"\n", 0, behind) + 1))
    if not lengths:
        raise FileError(f"{name}: has no hole; write {marker} where text is to be filled in, or say where with --at or --lines")
    return Source(name, [*pieces, data[behind:]], lengths, data)


def _length(name: str, digits: bytes | None, line: int) -> int | None:
    if digits is None:
        return None
    if not 1 <= (length := int(digits[:9])) <= 2**20:
        raise FileError(f"{name}:{line}: a hole of {digits.decode()} tokens; its length must be from 1 to {2**20}")
    return length


def _lines(data: bytes) -> list[bytes]:
    """Lines with their ends; behind the last end there is one more, which may be empty."""
    lines = data.split(b"\n")
    return [*(line + b"\n" for line in lines[:-1]), lines[-1]]


def _place(name: str, data: bytes, at: str) -> tuple[int, int]:
    """Where `LINE[:COL]` is in the file: before that character, or at the line's end."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})(?::([1-9][0-9]{0,8}))?", at)
    if found is None:
        raise FileError(f"--at must be LINE or LINE:COL, both from 1 on, not {at!r}")
    number, column = int(found[1]), int(found[2]) if found[2] else None
    lines = _lines(data)
    if number > len(lines):
        raise FileError(f"--at {at}: {name} has {len(lines)} lines")
    start = sum(map(len, lines[: number - 1]))
    line = _without_end(lines[number - 1])
    bom = len(BOM) if number == 1 and line.startswith(BOM) else 0
    try:
        text = line[bom:].decode("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        text, encoding = line[bom:].decode("latin-1"), "latin-1"
    if column is not None and column > len(text) + 1:
        raise FileError(f"--at {at}: line {number} of {name} has {len(text)} characters")
    offset = start + bom + len(text[: None if column is None else column - 1].encode(encoding))
    return offset, offset


def _range(name: str, data: bytes, lines: str) -> tuple[int, int]:
    """Where lines `A-B`, or the line `A`, start and stop in the file, without the last one's end."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?", lines)
    if found is None:
        raise FileError(f"--lines must be A-B, two lines from 1 on, not {lines!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    every = _lines(data)
    if first > last or last > len(every):
        raise FileError(f"--lines {lines}: {name} has {len(every)} lines, and the first is to come first")
    start = sum(map(len, every[: first - 1]))
    if first == 1 and data.startswith(BOM):
        start = len(BOM)
    stop = sum(map(len, every[: last - 1])) + len(_without_end(every[last - 1]))
    return start, max(start, stop)


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


EDITOR_KEYS = {"prefix", "suffix", "parts", "instruction"}


def read_json_parts(data: bytes) -> tuple[list[str | int | None], str | None] | None:
    """What an editor asks for on stdin, and its instruction; None where it is no such JSON object.

    Raises:
        FileError: it is one, and broken.
    """
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or not given.keys() & EDITOR_KEYS:
        return None
    if unknown := given.keys() - EDITOR_KEYS:
        raise FileError(f"stdin: no key {min(unknown)!r}; it takes prefix and suffix, or parts, and instruction")
    if "parts" in given and given.keys() & {"prefix", "suffix"}:
        raise FileError("stdin: parts stand in the place of prefix and suffix; give one of the two")
    if "parts" in given:
        return _parts(given["parts"]), _text(given, "instruction")
    return [_text(given, "prefix") or "", None, _text(given, "suffix") or ""], _text(given, "instruction")


def _parts(parts: Any) -> list[str | int | None]:
    if not isinstance(parts, list) or not all(
        part is None or isinstance(part, str) or (isinstance(part, int) and not isinstance(part, bool)) for part in parts
    ):
        raise FileError("stdin: parts must be a list of texts, with null, or a length, for each hole")
    return parts


def _text(given: dict[str, Any], key: str) -> str | None:
    if given.get(key) is not None and not isinstance(given[key], str):
        raise FileError(f"stdin: {key} must be a text")
    return given.get(key)


def check_replaceable(path: Path, backup: str | None) -> None:
    """Raises `FileError` unless the file can be replaced, and kept under the backup's name."""
    if str(path) == "-":
        raise FileError("--write needs a file: what came on stdin has no place to go back to")
    if not os.access(path.resolve().parent, os.W_OK) or not os.access(path, os.W_OK):
        raise FileError(f"{path}: may not be replaced (permission denied)")
    if backup is None:
        return
    if not backup or "/" in backup or "\0" in backup:
        raise FileError(f"--backup must be what is put behind the file's name, as in --backup .orig, not {backup!r}")
    if (kept := _kept(path, backup)).exists():
        raise FileError(f"--backup {backup}: {kept} is there already; move it away, or name another")


def _kept(path: Path, backup: str) -> Path:
    return path.with_name(path.name + backup)


def replace_file(path: Path, before: bytes, after: bytes, backup: str | None) -> None:
    """Put `after` in the file's place, whole or not at all, with its mode; a link keeps pointing there.

    Raises:
        FileError: it is not `before` any more, or cannot be written.
    """
    target = path.resolve()

    def write(unfinished: Path) -> None:
        unfinished.write_bytes(after)
        if target.read_bytes() != before:
            raise FileError(f"{path}: was changed while it was being filled in; nothing was written, run it again")
        if backup is not None:
            _keep(target, _kept(path, backup), before)

    try:
        write_atomically(target, write)
    except OSError as error:
        raise FileError(f"{path}: cannot be replaced ({error.strerror}); it is as it was") from None


def _keep(target: Path, kept: Path, before: bytes) -> None:
    with kept.open("xb") as file:
        file.write(before)
    kept.chmod(target.stat().st_mode & 0o7777)
