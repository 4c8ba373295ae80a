"""A run that was recorded: one canvas, its steps with their times, and the text that they made. Needs no model."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..decoding.canvas import Canvas, final_tokens, text_before
from ..decoding.hole_layout import HoleLayout, unwrapped
from ..decoding.result import MOST_REJECTED, Stats, Step
from .autoregressiveness import Part, within

LARGEST_SCORE = 3e38  # float32 holds no more


@dataclass(frozen=True, eq=False)
class Record:
    """One step of a trace: a `Step` without its canvas, and its time.

    Attributes:
        index, nfe, positions, window, committed, remasked, scores: as in `Step`.
        rows: as in `Step`, of this step's forwards only; empty in traces of 0.1.0.
        seconds: from the start of the run to the end of the step.
        tokens: the committed ids, int32 `[n]`.
        others: positions and ids of tokens that were written in another way (padding, a hook), two int32 `[m]`.
        rejected: positions and ids of guesses that the forward did not confirm, two int32 `[k]`.
    """

    index: int
    seconds: float
    nfe: int
    positions: int
    rows: tuple[int, ...]
    window: tuple[int, int]
    committed: NDArray[np.int32]
    tokens: NDArray[np.int32]
    scores: NDArray[np.float32]
    remasked: NDArray[np.int32]
    others: tuple[NDArray[np.int32], NDArray[np.int32]]
    rejected: tuple[NDArray[np.int32], NDArray[np.int32]]

    @classmethod
    def of(cls, row: dict[str, Any], length: int, seconds: float) -> Self:
        """The record in one line of a trace file.

        Args:
            row: the line's JSON object.
            length: of the canvas, in tokens.
            seconds: from the start of the canvas's run; the line's own time counts from the start of the file.

        Raises:
            ValueError, KeyError, TypeError: the line is not a step of such a canvas.
        """
        at, tokens, scores = row["at"], row["tokens"], [math.nan if score is None else score for score in row["scores"]]
        if not all(abs(score) < LARGEST_SCORE for score in scores if math.isfinite(score)):
            raise ValueError("a score is too large")
        remasked, (others, other_tokens) = row.get("back", []), row.get("others", ([], []))
        rejected, rejected_tokens = row.get("rejected", ([], []))
        pairs = ((at, tokens), (at, scores), (others, other_tokens), (rejected, rejected_tokens))
        if not all(len(one) == len(other) for one, other in pairs):
            raise ValueError("its lists are not of one length")
        if len(rejected) > MOST_REJECTED:
            raise ValueError(f"it has more than {MOST_REJECTED} rejected guesses")
        if not all(0 <= position < length for position in (*at, *remasked, *others, *rejected)):
            raise ValueError("a position is off the canvas")
        step, nfe, positions, first, end = (int(one) for one in (row["step"], row["nfe"], row["positions"], *row["window"]))
        rows = tuple(int(one) for one in row.get("rows", ()))
        if not all(0 <= number < 2**53 for number in (step, nfe, positions, first, end, *rows)):
            raise ValueError("a number is not a count")
        return cls(
            step, seconds, nfe, positions, rows, (first, end),
            _ids(at), _ids(tokens), np.array(scores, dtype=np.float32), _ids(remasked), (_ids(others), _ids(other_tokens)),
            (_ids(rejected), _ids(rejected_tokens)),
        )  # fmt: skip


def _ids(values: Sequence[int]) -> NDArray[np.int32]:
    ids = np.array(values, dtype=np.int32)
    if ids.ndim != 1 or ids.tolist() != list(values):
        raise ValueError("an id is not a whole number")
    return ids


@dataclass(frozen=True, eq=False)
class Trace:
    """A run that was recorded.

    Attributes:
        path: the file it was read from.
        header: the file's first line.
        canvas: the canvas before the first step.
        pieces: for each id the bytes that it adds to a text.
        layout: of a text with holes; None for an answer.
        row, rows: this canvas, counted from 1, and the number of canvases in the file.
        kept: the canvas whose text was kept, if the file says so.
        records: the steps.
        end: `done`, `stopped`, or None if the program was killed.
        seconds: how long the run took.
    """

    path: Path
    header: dict[str, Any]
    canvas: Canvas
    pieces: dict[int, bytes]
    layout: HoleLayout | None = None
    row: int = 1
    rows: int = 1
    kept: int | None = None
    records: list[Record] = field(default_factory=list)
    end: str | None = None
    seconds: float = 0.0

    @property
    def canvas_name(self) -> str:
        """This canvas among those of the file, in words; empty if there is one."""
        kept = ", the one that was kept" if self.row == self.kept else ""
        return f"canvas {self.row} of {self.rows}{kept}" if self.rows > 1 else ""

    def steps(self) -> Iterator[Step]:
        """The steps, each with the canvas after it."""
        rows: tuple[int, ...] = ()
        for one, tokens in zip(self.records, self._canvases(), strict=True):
            tokens, rows = tokens.copy(), rows + one.rows
            counts = (one.nfe, one.positions, one.window, rows)
            yield Step(one.index, tokens, one.committed, one.scores, one.remasked, *counts, np.stack(one.rejected, axis=1))

    def _canvases(self) -> Iterator[NDArray[np.int32]]:
        """The canvas after each step, int32 `[L]`: one array, which the next step changes."""
        tokens = self.canvas.tokens[0].copy()
        for one in self.records:
            tokens[one.committed] = one.tokens
            tokens[one.remasked] = self.canvas.mask_id
            tokens[one.others[0]] = one.others[1]
            yield tokens

    @cached_property
    def final(self) -> NDArray[np.int32]:
        """The canvas after the last step, int32 `[L]`."""
        return [self.canvas.tokens[0], *self._canvases()][-1]

    @property
    def prefix_length(self) -> int:
        """Tokens before the first hole that are shown: those of the text with holes, or of the answer's prefill."""
        if self.layout:
            return self.canvas.start - self.layout.prompt
        ids, prefill, text = self.canvas.tokens[0, : self.canvas.start].tolist(), self.header["config"].get("prefill", ""), b""
        for count, token in enumerate(reversed(ids), start=1):
            text = self.piece(token) + text
            if text.decode("utf-8", "replace") == prefill or len(text) > 4 * len(prefill):
                return count if text.decode("utf-8", "replace") == prefill else 0
        return 0

    @property
    def masked(self) -> NDArray[np.bool_]:
        """The masks before the first step, bool `[L]`."""
        return self.canvas.tokens[0] == self.canvas.mask_id

    @property
    def texts(self) -> list[list[int]]:
        """The ids before, between and after the holes."""
        return [text.tolist() for text in self.canvas.texts]

    @property
    def hole_ids(self) -> list[NDArray[np.int32]]:
        """The ids in each hole after the last step, up to its end token or the first mask."""
        final, canvas = self.final, self.canvas
        return [final_tokens(final[start:stop], canvas.mask_id, canvas.end_ids)[0] for start, stop in canvas.holes[0]]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """For each hole its start, and the end of its text: after its end token or its stop text."""
        final = self.final
        _, kept = self._answer() if self.layout is None else ("", None)
        if kept is not None:
            return [(self.canvas.start, self.canvas.start + kept)]
        spans = []
        for start, stop in self.canvas.holes[0].tolist():
            ends = np.flatnonzero(np.isin(final[start:stop], list(self.canvas.end_ids)))
            spans.append((start, start + int(ends[0]) + 1 if len(ends) else stop))
        return spans

    @property
    def useful(self) -> NDArray[np.bool_]:
        """The masks before the first step that are part of a text in the end, bool `[L]`: no padding."""
        useful = self.masked.copy()
        for (_, end), (_, stop) in zip(self.spans, self.canvas.holes[0].tolist(), strict=True):
            useful[end:stop] = False
        return useful

    def useful_steps(self) -> Iterator[Part]:
        """What the steps committed and remasked up to the end of each text."""
        return within(self.records, self.useful)

    @property
    def text(self) -> str:
        """The text in the end: the answer with its prefill, or the text with its holes filled."""
        if self.layout is None:
            text, _ = self._answer()
            return text
        before, *after = self.texts
        text = self.text_of(before[self.layout.prompt :])
        for ids, lead, tail, known in zip(self.hole_ids, self.layout.leads, self.layout.tails, after, strict=True):
            text += lead + unwrapped(self.text_of(ids.tolist()), lead, tail) + tail + self.text_of(known)
        return text

    def _answer(self) -> tuple[str, int | None]:
        """The text, and its length in tokens with its stop text, if it has one."""
        config, (ids,) = self.header["config"], self.hole_ids
        return text_before(config.get("until", ()), config.get("prefill", ""), ids.tolist(), self.text_of)

    @property
    def stats(self) -> Stats:
        """The numbers of the run. Memory is 0: it is not recorded."""
        last, committed = self.records[-1] if self.records else None, self.final != self.canvas.mask_id
        return Stats(
            nfe=last.nfe if last else 0,
            positions=last.positions if last else 0,
            useful_tokens=sum(int(committed[start:end].sum()) for start, end in self.spans),
            seconds=self.seconds,
            peak_memory_bytes=0,
            rows=Counter(rows for record in self.records for rows in record.rows),
        )

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for special tokens."""
        return self.pieces.get(token, b"")

    def text_of(self, ids: Iterable[int]) -> str:
        """The text that ids decode to."""
        return b"".join(self.pieces.get(id, b"") for id in ids).decode("utf-8", "replace")
