"""Reading what `recording` wrote: a run's canvas, its steps and their times. Knows no model."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .canvas import Canvas, count_up_to_end, settled, text_before
from .errors import TraceError
from .order import Part, up_to
from .trace import Stats, Step

FORMAT = 1
KEY = "diffucode_trace"


@dataclass(frozen=True, eq=False)
class Record:
    """One line of a trace: a `Step` without its canvas, and when it was over."""

    index: int
    seconds: float
    nfe: int
    positions: int
    window: tuple[int, int]
    committed: NDArray[np.int32]
    tokens: NDArray[np.int32]
    scores: NDArray[np.float32]
    remasked: NDArray[np.int32]
    others: tuple[NDArray[np.int32], NDArray[np.int32]]

    @classmethod
    def of(cls, row: dict[str, Any], length: int) -> Self:
        """Raises `ValueError`, `KeyError` or `TypeError` where a line is no step of such a canvas."""
        at, tokens, scores = row["at"], row["tokens"], [math.nan if score is None else score for score in row["scores"]]
        back, (others, filled) = row.get("back", []), row.get("others", ([], []))
        if not len(at) == len(tokens) == len(scores) or len(others) != len(filled):
            raise ValueError("its lists are not of one length")
        if not all(0 <= position < length for position in (*at, *back, *others)):
            raise ValueError("a position is off the canvas")
        first, end = map(int, row["window"])
        return cls(
            int(row["step"]), float(row["seconds"]), int(row["nfe"]), int(row["positions"]), (first, end),
            _ids(at), _ids(tokens), np.array(scores, dtype=np.float32), _ids(back), (_ids(others), _ids(filled)),
        )  # fmt: skip


def _ids(values: Sequence[int]) -> NDArray[np.int32]:
    ids = np.array(values, dtype=np.int32)
    if ids.ndim != 1 or ids.tolist() != list(values):
        raise ValueError("an id is no whole number")
    return ids


@dataclass(frozen=True, eq=False)
class Trace:
    """A run that was written down.

    Attributes:
        header: its first line.
        canvas: the canvas before the first step.
        pieces: id -> what it adds to a text.
        records: the steps.
        end: `done`, `stopped`, or None where the program was killed.
        seconds: how long it took.
    """

    path: Path
    header: dict[str, Any]
    canvas: Canvas
    pieces: dict[int, bytes]
    records: list[Record] = field(default_factory=list)
    end: str | None = None
    seconds: float = 0.0

    def steps(self) -> Iterator[Step]:
        """The steps again, each with its canvas."""
        tokens = self.canvas.tokens[0]
        for one in self.records:
            tokens = tokens.copy()
            tokens[one.committed] = one.tokens
            tokens[one.remasked] = self.canvas.mask_id
            tokens[one.others[0]] = one.others[1]
            yield Step(one.index, tokens, one.committed, one.scores, one.remasked, one.nfe, one.positions, one.window)

    @property
    def final(self) -> NDArray[np.int32]:
        """The canvas after the last step."""
        tokens = self.canvas.tokens[0]
        for step in self.steps():
            tokens = step.tokens
        return tokens

    @property
    def given(self) -> int:
        """How many tokens before the first mask are the answer's prefill."""
        prompt, prefill = self.canvas.tokens[0, : self.canvas.start].tolist(), self.header["config"].get("prefill", "")
        counts = range(len(prompt) + 1 if prefill else 0)
        return next((count for count in counts if self.text_of(prompt[len(prompt) - count :]) == prefill), 0)

    @property
    def masked(self) -> NDArray[np.bool_]:
        """Where there was a mask before the first step."""
        return self.canvas.tokens[0] == self.canvas.mask_id

    @property
    def text_end(self) -> int:
        """Where the answer ends, its end token or one of `until` with it; the canvas's end where none was written."""
        _, kept = self._answer()
        if kept is not None:
            return self.canvas.start + kept
        ends = np.flatnonzero(np.isin(self.final[self.canvas.start :], list(self.canvas.end_ids)))
        return self.canvas.start + int(ends[0]) + 1 if len(ends) else len(self.masked)

    def useful(self) -> Iterator[Part]:
        """What the steps committed and took back up to the answer's end."""
        return up_to(self.records, self.text_end)

    @property
    def text(self) -> str:
        """The settled text of the answer at the end, its prefill before it."""
        text, _ = self._answer()
        return text

    def _answer(self) -> tuple[str, int | None]:
        """The text, and how many tokens it takes up to and with one of `until`."""
        config = self.header["config"]
        answer = self.final[self.canvas.start :]
        ids, _ = settled(answer, mask_id=self.canvas.mask_id, end_ids=self.canvas.end_ids)
        return text_before(config.get("until", ()), config.get("prefill", ""), ids.tolist(), self.text_of)

    @property
    def stats(self) -> Stats:
        """Its numbers; memory was not written down."""
        last = self.records[-1] if self.records else None
        answer = self.final[self.canvas.start : self.text_end]
        useful, _ = count_up_to_end(answer, mask_id=self.canvas.mask_id, end_ids=self.canvas.end_ids)
        return Stats(
            nfe=last.nfe if last else 0,
            positions=last.positions if last else 0,
            useful_tokens=useful,
            seconds=self.seconds,
            peak_memory_bytes=0,
        )

    def text_of(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces.get(id, b"") for id in ids).decode("utf-8", "replace")


def read_trace(path: Path) -> Trace:
    """Read a trace, whole or stopped. A last line that was not finished is left out.

    Raises:
        TraceError: it cannot be read, is no trace, is one of another version, or a line is damaged; the
            message names file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror or error})") from None
    lines = data.split(b"\n")[:-1]
    trace = _opened(path, lines[0] if lines else data)
    records, end, seconds = trace.records, None, 0.0
    for number, line in enumerate(lines[1:], start=2):
        row = _object(line)
        try:
            if row is None:
                raise ValueError("it is no JSON object")
            if end is not None:
                raise ValueError("it stands behind the end")
            if "end" in row:
                end, seconds = str(row["end"]), float(row["seconds"])
                continue
            records.append(Record.of(row, len(trace.masked)))
            trace.pieces.update(_pieces(row))
            seconds = records[-1].seconds
            if unknown := [id for id in (*row["tokens"], *row.get("others", ([], []))[1]) if id not in trace.pieces]:
                raise ValueError(f"the token {unknown[0]} has no text")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise TraceError(f"{path}, line {number}: damaged ({what}); remove it and all below it") from None
    return Trace(path, trace.header, trace.canvas, trace.pieces, records, end, seconds)


def _opened(path: Path, line: bytes) -> Trace:
    header = _object(line)
    if header is None or KEY not in header:
        raise TraceError(f"{path}, line 1: not a trace of diffucode; --trace FILE writes one")
    if header[KEY] != FORMAT:
        raise TraceError(
            f"{path}, line 1: a trace of format {header[KEY]}, written by diffucode {header.get('version')}; this is"
            f" {__version__} and reads format {FORMAT}: read it with the version that wrote it"
        )
    try:
        tokens = _unpacked(header["canvas"], int(header["mask"]))[None]
        canvas = Canvas(
            tokens=tokens,
            padding=np.zeros(1, dtype=np.int32),
            holes=np.array([[[int(header["start"]), tokens.shape[1]]]], dtype=np.int32),
            mask_id=int(header["mask"]),
            pad_id=int(header["pad"]),
            end_ids=frozenset(map(int, header["ends"])),
        )
        if not 0 <= canvas.start <= canvas.tokens.shape[1] or not isinstance(header["config"], dict):
            raise ValueError("its numbers do not fit together")
        texts = [header["config"].get("prefill", ""), *header["config"].get("until", [])]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("prefill and until are no texts")
        for name in ("version", "model", "tokenizer"):
            header[name] = str(header[name])
        return Trace(path, header, canvas, _pieces(header))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise TraceError(f"{path}, line 1: damaged ({what}); record the run again") from None


def _unpacked(packed: Sequence[int], mask_id: int) -> NDArray[np.int32]:
    tokens = [token for entry in packed for token in ([mask_id] * -entry if entry < 0 else [entry])]
    return np.array(tokens, dtype=np.int32)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def text_or_bytes(piece: bytes) -> str | list[int]:
    """A token's piece of text as a line of a trace has it: one that ends inside a character as its bytes."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _pieces(row: dict[str, Any]) -> dict[int, bytes]:
    return {
        int(id): piece.encode("utf-8", "replace") if isinstance(piece, str) else bytes(piece)
        for id, piece in row.get("pieces", {}).items()
    }
