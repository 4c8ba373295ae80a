"""A run that was recorded: one canvas, its steps with their times, and the text that they made. Needs no model."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.canvas import Canvas, final_tokens, text_before
from ..decoding.hole_layout import HoleLayout, unwrapped
from ..decoding.result import Stats, Step, after_step, resized
from .autoregressiveness import Part, within
from .record import Record, Resizing


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
            changes = (np.stack(one.rejected, axis=1), one.deleted, one.expanded)
            yield Step(one.index, tokens, one.committed, one.scores, *counts, *changes, remasked=one.remasked)

    def _canvases(self) -> Iterator[NDArray[np.int32]]:
        """The canvas after each step, int32 `[L]`; the next step may change the array."""
        tokens = self.canvas.tokens.copy()
        for one in self.records:
            if len(tokens) != one.length or len(one.deleted):
                tokens = resized(tokens, one.deleted, one.expanded)
            tokens[one.committed] = one.tokens
            tokens[one.remasked] = self.canvas.mask_id
            tokens[one.others[0]] = one.others[1]
            yield tokens

    @cached_property
    def final(self) -> NDArray[np.int32]:
        """The canvas after the last step, int32 `[L]`."""
        return [self.canvas.tokens, *self._canvases()][-1]

    @cached_property
    def on_final(self) -> "Trace":
        """The run as if its canvas had had its last length from the start; itself where no step changed the length.

        Each position is the one that it has in the end. What was written at a position that left the canvas is left out.
        """
        if not self.resizings:
            return self
        tokens = self.canvas.tokens
        for one in self.records:
            tokens = resized(tokens, one.deleted, one.expanded)
        canvas = replace(self.canvas, tokens=tokens, holes=self.holes)
        return replace(self, canvas=canvas, records=[record for record, _ in self._moved])

    @property
    def resizings(self) -> list[Resizing]:
        """What each step did to the canvas's length; empty where none changed it."""
        return [resizing for _, resizing in self._moved]

    @cached_property
    def _moved(self) -> list[tuple[Record, Resizing]]:
        """The steps on the last canvas; empty where none changed the length."""
        if not any(len(one.deleted) or len(one.expanded) for one in self.records):
            return []
        length, found = self.records[-1].length, list[tuple[Record, Resizing]]()
        final = np.arange(length, dtype=np.int32)
        for one in reversed(self.records):
            record, resizing, final = one.on_final(final, length)
            found.append((record, resizing))
        return found[::-1]

    @cached_property
    def holes(self) -> NDArray[np.int32]:
        """The start and end of each hole after the last step, int32 `[H, 2]`."""
        holes = self.canvas.holes
        for one in self.records:
            holes = after_step(holes, one.deleted, one.expanded)
        return holes

    @property
    def prefix_length(self) -> int:
        """Tokens before the first hole that are shown: those of the text with holes, or of the answer's prefill."""
        if self.layout:
            return self.canvas.start - self.layout.prompt
        ids, prefill, text = self.canvas.tokens[: self.canvas.start].tolist(), self.header["config"].get("prefill", ""), b""
        for count, token in enumerate(reversed(ids), start=1):
            text = self.piece(token) + text
            if text.decode("utf-8", "replace") == prefill or len(text) > 4 * len(prefill):
                return count if text.decode("utf-8", "replace") == prefill else 0
        return 0

    @property
    def masked(self) -> NDArray[np.bool_]:
        """The masks before the first step, bool `[L]`."""
        return self.canvas.tokens == self.canvas.mask_id

    @property
    def texts(self) -> list[list[int]]:
        """The ids before, between and after the holes."""
        return [text.tolist() for text in self.canvas.texts]

    @property
    def hole_ids(self) -> list[NDArray[np.int32]]:
        """The ids in each hole after the last step, up to its end token or the first mask."""
        final, canvas = self.final, self.canvas
        return [final_tokens(final[start:stop], canvas.mask_id, canvas.end_ids)[0] for start, stop in self.holes]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """For each hole its start, and the end of its text: after its end token or its stop text."""
        final = self.final
        _, kept = self._answer() if self.layout is None else ("", None)
        if kept is not None:
            return [(self.canvas.start, self.canvas.start + kept)]
        spans = []
        for start, stop in self.holes.tolist():
            ends = np.flatnonzero(np.isin(final[start:stop], list(self.canvas.end_ids)))
            spans.append((start, start + int(ends[0]) + 1 if len(ends) else stop))
        return spans

    @property
    def useful(self) -> NDArray[np.bool_]:
        """The masks that are part of a text in the end, bool `[L]` on the canvas after the last step: no padding."""
        useful = self.on_final.masked.copy()
        for (_, end), (_, stop) in zip(self.spans, self.holes.tolist(), strict=True):
            useful[end:stop] = False
        return useful

    def useful_steps(self) -> Iterator[Part]:
        """What the steps committed and remasked up to the end of each text."""
        return within(self.on_final.records, self.useful)

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
