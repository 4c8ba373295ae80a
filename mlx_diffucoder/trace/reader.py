"""Read the file that `writer` wrote. Needs no model.

A file of format 5 holds one answer. One of format 6 holds several canvases, denoised together or one batch after another:
a line opens each of them, and the lines of its steps name it. Formats 3 and 4 are the same for canvases that keep their
length, and 1 and 2 without rejected guesses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from .. import __version__
from ..decoding.canvas import Canvas
from ..decoding.hole_layout import HoleLayout
from ..errors import TraceError
from ..file_kinds import read_bytes
from ..files import json_object
from .record import Record
from .run import Trace

FORMAT, ROWS_FORMAT = 5, 6
"""The formats of a trace of one answer, and of several canvases."""
READ = range(1, ROWS_FORMAT + 1)
KEY = "diffucode_trace"
LARGEST, LARGEST_FILE = 2**17, 2**24  # the most masks of a canvas, and the most tokens of all canvases together
LONGEST_PIECE = 2**10  # the most bytes of a token
LAST_SECOND = 1e9


def read_trace(path: Path, row: int | None = None) -> Trace:
    """Read a trace, even if its run was killed: an unfinished last line is ignored.

    Args:
        row: the canvas, counted from 1; the default is the one that was kept, or else the first.

    Raises:
        TraceError: the file cannot be read, is not a trace, has another format or a damaged line; or it has no such
            canvas. The message names the file and the line.
    """
    data = read_bytes(path, TraceError)
    lines = data.split(b"\n")[:-1]
    file = _File.opened(path, lines[0] if lines else data)
    for number, line in enumerate(lines[1:], start=2):
        try:
            file.read_line(json_object(line))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise TraceError(f"{path}, line {number}: damaged ({_reason(error)}); remove it and all lines after it") from None
    return file.trace(row)


@dataclass
class _File:
    """A trace file, as far as it was read.

    Attributes:
        texts: the ids around the holes, of format 6.
        runs: for each canvas its trace, and the time when its run started.
        size: the tokens of all canvases.
    """

    path: Path
    header: dict[str, Any]
    pieces: dict[int, bytes]
    texts: list[list[int]]
    layout: HoleLayout | None
    runs: list[tuple[Trace, float]] = field(default_factory=list)
    kept: int | None = None
    end: str | None = None
    seconds: float = 0.0
    size: int = 0

    @classmethod
    def opened(cls, path: Path, line: bytes) -> Self:
        header = json_object(line)
        if header is None or KEY not in header:
            raise TraceError(f"{path}, line 1: not a trace; --trace FILE writes one")
        if header[KEY] not in READ:
            raise TraceError(
                f"{path}, line 1: a trace of format {header[KEY]}, written by diffucode {header.get('version')}; this is"
                f" {__version__} and reads formats {READ[0]} to {READ[-1]}: read it with the version that wrote it"
            )
        header[KEY] = FORMAT if header[KEY] % 2 else ROWS_FORMAT
        try:
            return cls._of(path, header)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise TraceError(f"{path}, line 1: damaged ({_reason(error)}); record the run again") from None

    @classmethod
    def _of(cls, path: Path, header: dict[str, Any]) -> Self:
        if not isinstance(header["config"], dict):
            raise ValueError("config is not an object")
        if not all(isinstance(text, str) for text in (header["config"].get("prefill", ""), *header["config"].get("until", []))):
            raise ValueError("prefill and until are not text")
        for name in ("version", "model", "tokenizer"):
            header[name] = str(header[name])
        for name in ("mask", "pad"):
            header[name] = int(header[name])
        header["ends"] = frozenset(map(int, header["ends"]))
        if header[KEY] == FORMAT:
            tokens, start = _unpacked(header["canvas"], header["mask"]), int(header["start"])
            if not 0 <= start <= len(tokens):
                raise ValueError("its numbers do not fit together")
            file = cls(path, header, _pieces(header), [tokens[:start], []], None)
            file._open([len(tokens) - start], 0.0, tokens)
            return file
        texts = [_unpacked(text, header["mask"]) for text in header["texts"]]
        if len(texts) < 2 or ("frame" not in header and len(texts) > 2):
            raise ValueError("its texts do not fit together")
        layout = _layout(header["frame"], texts) if "frame" in header else None
        return cls(path, header, _pieces(header), texts, layout)

    def read_line(self, line: dict[str, Any] | None) -> None:
        """Read a line after the first. Raises `ValueError`, `KeyError` or `TypeError` if it is damaged."""
        if line is None:
            raise ValueError("it is not a JSON object")
        if self.end is not None:
            raise ValueError("it comes after the last line")
        if "end" in line:
            kept = line.get("kept")
            if kept is not None and kept not in range(1, len(self.runs) + 1):
                raise ValueError(f"it keeps canvas {kept}, which does not exist")
            self.end, self.seconds, self.kept = str(line["end"]), _seconds(line), kept and int(kept)
        elif "lengths" in line and self.header[KEY] == ROWS_FORMAT:
            if line["row"] != len(self.runs) + 1:
                raise ValueError(f"it opens canvas {line['row']}, and the next is {len(self.runs) + 1}")
            self._open([int(length) for length in line["lengths"]], _seconds(line))
        else:
            self._step(line)

    def _open(self, lengths: list[int], start: float, tokens: Sequence[int] | None = None) -> None:
        """Start on a canvas. An answer's has `tokens`: text of its own may follow its masks."""
        if not all(length >= 0 for length in lengths) or sum(lengths) > LARGEST:
            raise ValueError("a canvas cannot have such a length")
        self.size += sum(map(len, self.texts)) + sum(lengths)
        if self.size > LARGEST_FILE:
            raise ValueError(f"the canvases have more than {LARGEST_FILE} tokens")
        special = {"mask_id": self.header["mask"], "pad_id": self.header["pad"], "end_ids": self.header["ends"]}
        canvas = Canvas.around(self.texts, lengths, **special)
        if tokens is not None:
            canvas = replace(canvas, tokens=np.array(tokens, dtype=np.int32))
        trace = Trace(self.path, self.header, canvas, self.pieces, self.layout, row=len(self.runs) + 1)
        self.runs.append((trace, start))

    def _step(self, line: dict[str, Any]) -> None:
        row = line["row"] if self.header[KEY] == ROWS_FORMAT else 1
        if row not in range(1, len(self.runs) + 1):
            raise ValueError(f"no line before it opens canvas {row}")
        trace, start = self.runs[row - 1]
        last = trace.records[-1].seconds if trace.records else 0.0
        if (seconds := _seconds(line) - start) < last:
            raise ValueError("its time is before that of the step before it")
        before = trace.records[-1].length if trace.records else len(trace.canvas.tokens)
        record = Record.of(line, before, seconds)
        self.size += max(0, record.length - before)
        if record.length > max(before, LARGEST) or self.size > LARGEST_FILE:
            raise ValueError("a canvas cannot have such a length")
        trace.records.append(record)
        self.pieces.update(_pieces(line))
        written = (*line["tokens"], *(id for key in ("others", "rejected") for id in line.get(key, ([], []))[1]))
        if unknown := [id for id in written if id not in self.pieces]:
            raise ValueError(f"the token {unknown[0]} has no text")

    def trace(self, row: int | None) -> Trace:
        """The trace of one canvas."""
        if not self.runs:
            raise TraceError(f"{self.path}: the run stopped before its first step, so there is nothing to show")
        if row is not None and not 1 <= row <= len(self.runs):
            count = f"{len(self.runs)} canvases" if len(self.runs) > 1 else "one canvas"
            raise TraceError(f"{self.path}: has {count}, so there is no canvas {row}")
        one, _ = self.runs[(row or self.kept or 1) - 1]
        last = one.records[-1].seconds if one.records else 0.0
        seconds = self.seconds if self.end is not None and self.header[KEY] == FORMAT else last
        return replace(one, rows=len(self.runs), kept=self.kept, end=self.end, seconds=seconds)


def _layout(given: dict[str, Any], texts: Sequence[list[int]]) -> HoleLayout:
    layout = HoleLayout(int(given["prompt"]), list(given["leads"]), list(given["tails"]))
    if not 0 <= layout.prompt <= len(texts[0]) or not len(layout.leads) == len(layout.tails) == len(texts) - 1:
        raise ValueError("its frame does not fit the texts")
    if not all(isinstance(text, str) for text in (*layout.leads, *layout.tails)):
        raise ValueError("its frame holds a value that is not text")
    return layout


def _seconds(line: dict[str, Any]) -> float:
    seconds = float(line["seconds"])
    if not 0 <= seconds <= LAST_SECOND:  # nor NaN
        raise ValueError("its seconds are no time")
    return seconds


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _unpacked(packed: Sequence[int], mask_id: int) -> list[int]:
    if sum(-entry for entry in packed if entry < 0) > LARGEST:
        raise ValueError("a canvas cannot have so many masks")
    tokens = [token for entry in packed for token in ([mask_id] * -entry if entry < 0 else [entry])]
    return np.array(tokens, dtype=np.int32).tolist()


def text_or_bytes(piece: bytes) -> str | list[int]:
    """The bytes of a token as a trace file has them: as text, or as a list of bytes if they are not whole characters."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _pieces(row: dict[str, Any]) -> dict[int, bytes]:
    pieces = {
        int(id): piece.encode("utf-8", "replace") if isinstance(piece, str) else bytes(piece)
        for id, piece in row.get("pieces", {}).items()
    }
    if any(len(piece) > LONGEST_PIECE for piece in pieces.values()):
        raise ValueError(f"a token cannot have more than {LONGEST_PIECE} bytes")
    return pieces
