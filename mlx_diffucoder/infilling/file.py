"""A file with holes: cut at them in bytes, and put together again. The bytes outside the holes never change."""

import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import file_kinds
from ..errors import FileError, PromptError
from ..files import write_atomically
from .context import Part

BOM = b"\xef\xbb\xbf"
CLOSING = ">]})"


@dataclass(frozen=True)
class HoleFile:
    """A file with holes.

    Attributes:
        name: of the file, for messages.
        pieces: the bytes around the holes, one more than there are holes.
        lengths: tokens of each hole; None if the length is not given.
        data: all bytes of the file, including those that the holes replace.
    """

    name: str
    pieces: list[bytes]
    lengths: list[int | None]
    data: bytes

    @property
    def encoding(self) -> str:
        """UTF-8; or Latin-1, in which every byte is a character, if the file is not UTF-8."""
        return _encoding(self.data)

    @property
    def parts(self) -> list[Part]:
        """The arguments of `fill`."""
        texts = [piece.decode(self.encoding) for piece in self.pieces]
        return [*(part for pair in zip(texts, self.lengths, strict=False) for part in pair), texts[-1]]

    def filled(self, holes: Sequence[str]) -> bytes:
        """The file with its holes filled, in its own encoding and with its own line endings. JSON stays JSON.

        Raises:
            FileError: the texts cannot be written in the file's encoding, or the file would no longer be JSON.
        """
        newline = newline_of(self.data)
        filled = self._joined([text.replace("\n", newline) for text in holes])
        if not _is_json(self.data) or _is_json(filled):
            return filled
        # The holes are in strings, a notebook's cells for example.
        escaped = self._joined([json.dumps(text, ensure_ascii=False)[1:-1] for text in holes])
        if not _is_json(escaped):
            raise FileError(f"{self.name}: would no longer be JSON with its holes filled; put each hole inside a string")
        return escaped

    def _joined(self, holes: Sequence[str]) -> bytes:
        encoded = [self._encoded(text) for text in holes]
        return b"".join(piece + hole for piece, hole in zip(self.pieces, [*encoded, b""], strict=True))

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise FileError(
                f"{self.name}: is not UTF-8, and the model wrote a character that Latin-1 lacks"
                f" ({text[error.start]!r}); convert the file first, with iconv for example"
            ) from None


def newline_of(data: bytes) -> str:
    """The line ending that most lines have."""
    return "\r\n" if 2 * data.count(b"\r\n") > data.count(b"\n") else "\n"


def _is_json(data: bytes) -> bool:
    if not data.lstrip(BOM + b" \t\r\n").startswith((b"{", b"[")):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _encoding(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def read_bytes(path: Path) -> bytes:
    """All bytes of a file, or of stdin for `-`. Raises `FileError` if it cannot be read or is not text."""
    name = name_of(path)
    try:
        data = sys.stdin.buffer.read() if name == "stdin" else file_kinds.read_bytes(path, FileError)
    except OSError as error:
        raise FileError(f"{name}: cannot be read ({error.strerror})") from None
    if b"\0" in data:
        raise FileError(f"{name}: is binary (it holds a NUL byte); only text can be filled in, as UTF-8 for example")
    return data


def name_of(path: Path) -> str:
    """The file's name in messages."""
    return "stdin" if str(path) == "-" else str(path)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the file's name before errors of its text; errors of an option stay as they are."""
    try:
        yield
    except PromptError as error:
        if error.field is None:
            raise PromptError(f"{name}: {error}") from None
        raise


def cut(name: str, data: bytes, marker: str, at: str | None, lines: str | None) -> HoleFile:
    """Cut a file at its markers, or where an option says.

    Args:
        name: the file's name for messages.
        at: `LINE[:COL]`, both from 1: the hole is before that character, or at the end of the line.
        lines: `A-B`, from 1: the hole is these lines.

    Raises:
        FileError: there is no hole; the message names the file or the option.
    """
    if at is not None and lines is not None:
        raise FileError("--at and --lines both say where the hole is; give one of them", field="--at")
    if at is not None:
        start, stop = _point(name, data, at)
    elif lines is not None:
        start, stop = _range(name, data, lines)
    else:
        return _marked(name, data, marker)
    return HoleFile(name, [data[:start], data[stop:]], [None], data)


def _marked(name: str, data: bytes, marker: str) -> HoleFile:
    if not marker.strip() or "\n" in marker:
        raise FileError(f"--marker must be text on one line, not {marker!r}", field="--marker")
    body, close = (marker[:-1], marker[-1]) if marker[-1] in CLOSING and len(marker) > 1 else (marker, "")
    pattern = re.compile(re.escape(os.fsencode(body)) + rb"(?::([0-9]+))?" + re.escape(close.encode()))
    pieces, lengths, end, line = [], list[int | None](), 0, 1
    for found in pattern.finditer(data):
        pieces.append(data[end : found.start()])
        end = found.end()
        line += pieces[-1].count(b"\n")
        lengths.append(_length(name, found[1], line))
    if not lengths:
        raise FileError(f"{name}: has no hole; write {marker} where text is to be filled in, or say where with --at or --lines")
    return HoleFile(name, [*pieces, data[end:]], lengths, data)


def _length(name: str, digits: bytes | None, line: int) -> int | None:
    if digits is None:
        return None
    if not 1 <= (length := int(digits[:9])) <= 2**20:
        raise FileError(f"{name}:{line}: a hole of {digits.decode()} tokens; its length must be from 1 to {2**20}")
    return length


def _lines(data: bytes) -> list[bytes]:
    """Lines with their endings; the last one has none and may be empty."""
    return re.split(rb"(?<=\n)", data)


def _point(name: str, data: bytes, at: str) -> tuple[int, int]:
    """The offset of `LINE[:COL]`, as an empty range: before that character, or at the end of the line."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})(?::([1-9][0-9]{0,8}))?", at)
    if found is None:
        raise FileError(f"--at must be LINE or LINE:COL, counted from 1, not {at!r}", field="--at")
    number, column = int(found[1]), int(found[2]) if found[2] else None
    lines = _lines(data)
    if number > len(lines):
        raise FileError(f"--at {at}: {name} has {len(lines)} lines")
    start = sum(map(len, lines[: number - 1]))
    line = _without_end(lines[number - 1])
    bom = len(BOM) if number == 1 and line.startswith(BOM) else 0
    encoding = _encoding(line[bom:])
    text = line[bom:].decode(encoding)
    if column is not None and column > len(text) + 1:
        raise FileError(f"--at {at}: line {number} of {name} has {len(text)} characters")
    offset = start + bom + len(text[: None if column is None else column - 1].encode(encoding))
    return offset, offset


def _range(name: str, data: bytes, lines: str) -> tuple[int, int]:
    """The offsets of lines `A-B`, or of line `A`, without the last line's ending."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?", lines)
    if found is None:
        raise FileError(f"--lines must be A-B, two lines counted from 1, not {lines!r}", field="--lines")
    first, last = int(found[1]), int(found[2] or found[1])
    every = _lines(data)
    if first > last or last > len(every):
        raise FileError(f"--lines {lines}: {name} has {len(every)} lines; give A-B with A up to B")
    start = sum(map(len, every[: first - 1]))
    if first == 1 and data.startswith(BOM):
        start = len(BOM)
    stop = sum(map(len, every[: last - 1])) + len(_without_end(every[last - 1]))
    return start, max(start, stop)


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def check_replaceable(path: Path, backup: str | None) -> None:
    """Raises `FileError` unless the file can be replaced, and kept under the backup's name."""
    if str(path) == "-":
        raise FileError("--write needs a file: stdin cannot be replaced", field="--write")
    if not os.access(path.resolve().parent, os.W_OK) or not os.access(path, os.W_OK):
        raise FileError(f"{path}: cannot be replaced (permission denied)")
    if path.is_file() and path.stat().st_nlink > 1:
        raise FileError(f"{path}: has other hard links, which would keep the old text; print it to a new file, without --write")
    if backup is None:
        return
    if not backup or "/" in backup or "\0" in backup:
        raise FileError(f"--backup must be a suffix for the file's name, such as .orig, not {backup!r}", field="--backup")
    if (kept := _kept(path, backup)).exists():
        raise FileError(f"--backup {backup}: {kept} exists; move it away or give another suffix")


def _kept(path: Path, backup: str) -> Path:
    return path.with_name(path.name + backup)


def replace_file(path: Path, before: bytes, after: bytes, backup: str | None) -> None:
    """Replace the file's content, completely or not at all. Its permissions stay, and a link to it stays one.

    Raises:
        FileError: the file no longer holds `before`, or cannot be written.
    """
    target = path.resolve()

    def write(unfinished: Path) -> None:
        unfinished.write_bytes(after)
        if target.read_bytes() != before:
            raise FileError(f"{path}: changed while its holes were filled; nothing was written, run it again")
        if backup is not None:
            kept = _kept(path, backup)
            with kept.open("xb") as file:
                file.write(before)
            kept.chmod(target.stat().st_mode & 0o7777)

    try:
        write_atomically(target, write)
    except OSError as error:
        raise FileError(f"{path}: cannot be replaced ({error.strerror}); it did not change") from None


def diff_of(file: HoleFile, after: bytes) -> str:
    """The changes as `diff -u` prints them and `patch` reads them: for both, only a line feed ends a line."""
    import difflib

    before, filled = (io.StringIO(data.decode(file.encoding)).readlines() for data in (file.data, after))
    changes = difflib.unified_diff(before, filled, file.name, file.name)
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in changes)
