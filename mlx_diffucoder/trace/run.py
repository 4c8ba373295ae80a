"""A run that was written down: one canvas, its steps and their times, and what text they made. Knows no model."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..decoding.canvas import Canvas, count_up_to_end, final_tokens, text_before
from ..decoding.hole_layout import HoleLayout, unwrapped
from ..decoding.result import Stats, Step
from .autoregressiveness import Part, within


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
    def of(cls, row: dict[str, Any], length: int, began: float = 0.0) -> Self:
        """Raises `ValueError`, `KeyError` or `TypeError` where a line is no step of such a canvas.

        Args:
            began: when the canvas's run did; its steps' times count from there.
        """
        at, tokens, scores = row["at"], row["tokens"], [math.nan if score is None else score for score in row["scores"]]
        back, (others, filled) = row.get("back", []), row.get("others", ([], []))
        if not len(at) == len(tokens) == len(scores) or len(others) != len(filled):
            raise ValueError("its lists are not of one length")
        if not all(0 <= position < length for position in (*at, *back, *others)):
            raise ValueError("a position is off the canvas")
        first, end = map(int, row["window"])
        return cls(
            int(row["step"]), float(row["seconds"]) - began, int(row["nfe"]), int(row["positions"]), (first, end),
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
        header: the file's first line.
        canvas: the canvas before the first step.
        pieces: id -> what it adds to a text.
        frame: of a text with holes; None where an answer was written.
        row, rows: which of the canvases that were written down together, counted from 1, and of how many.
        kept: which of them was, where that is known.
        records: the steps.
        end: `done`, `stopped`, or None where the program was killed.
        seconds: how long it took.
    """

    path: Path
    header: dict[str, Any]
    canvas: Canvas
    pieces: dict[int, bytes]
    frame: HoleLayout | None = None
    row: int = 1
    rows: int = 1
    kept: int | None = None
    records: list[Record] = field(default_factory=list)
    end: str | None = None
    seconds: float = 0.0

    @property
    def which(self) -> str:
        """Which of several canvases it is, in words; nothing where there is one."""
        kept = ", the one that was kept" if self.row == self.kept else ""
        return f"canvas {self.row} of {self.rows}{kept}" if self.rows > 1 else ""

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
        """How many tokens before the first hole are shown with what fills it: the text's, or the answer's prefill."""
        if self.frame:
            return self.canvas.start - self.frame.prompt
        prompt, prefill = self.canvas.tokens[0, : self.canvas.start].tolist(), self.header["config"].get("prefill", "")
        counts = range(len(prompt) + 1 if prefill else 0)
        return next((count for count in counts if self.text_of(prompt[len(prompt) - count :]) == prefill), 0)

    @property
    def masked(self) -> NDArray[np.bool_]:
        """Where there was a mask before the first step."""
        return self.canvas.tokens[0] == self.canvas.mask_id

    @property
    def around(self) -> list[list[int]]:
        """The tokens before, between and behind the holes."""
        starts, stops = self.canvas.holes[0].T.tolist()
        return [self.canvas.tokens[0, a:b].tolist() for a, b in zip([0, *stops], [*starts, None], strict=True)]

    @property
    def holes(self) -> list[NDArray[np.int32]]:
        """What stands in each hole at the end, as far as it is settled, without its end token."""
        final, special = self.final, {"mask_id": self.canvas.mask_id, "end_ids": self.canvas.end_ids}
        found = [final_tokens(final[start:stop], **special) for start, stop in self.canvas.holes[0]]  # type: ignore[arg-type]
        return [ids for ids, _ in found]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each hole starts and where its text ends, its end token, or one of `until`, with it."""
        final = self.final
        _, kept = self._answer() if self.frame is None else ("", None)
        if kept is not None:
            return [(self.canvas.start, self.canvas.start + kept)]
        spans = []
        for start, stop in self.canvas.holes[0].tolist():
            ends = np.flatnonzero(np.isin(final[start:stop], list(self.canvas.end_ids)))
            spans.append((start, start + int(ends[0]) + 1 if len(ends) else stop))
        return spans

    @property
    def open(self) -> NDArray[np.bool_]:
        """`masked`, less what lies behind the end of a text."""
        masked = self.masked.copy()
        for (_, end), (_, stop) in zip(self.spans, self.canvas.holes[0].tolist(), strict=True):
            masked[end:stop] = False
        return masked

    def useful(self) -> Iterator[Part]:
        """What the steps committed and took back up to the end of each text."""
        return within(self.records, self.open)

    @property
    def text(self) -> str:
        """The settled text at the end: the answer, its prefill before it; or the text around the holes, those filled."""
        if self.frame is None:
            text, _ = self._answer()
            return text
        before, *behind = self.around
        text = self.text_of(before[self.frame.prompt :])
        for ids, lead, tail, known in zip(self.holes, self.frame.leads, self.frame.tails, behind, strict=True):
            text += lead + unwrapped(self.text_of(ids.tolist()), lead, tail) + tail + self.text_of(known)
        return text

    def _answer(self) -> tuple[str, int | None]:
        """The text, and how many tokens it takes up to and with one of `until`."""
        config, (ids,) = self.header["config"], self.holes
        return text_before(config.get("until", ()), config.get("prefill", ""), ids.tolist(), self.text_of)

    @property
    def stats(self) -> Stats:
        """Its numbers; memory was not written down."""
        last, final, canvas = self.records[-1] if self.records else None, self.final, self.canvas
        texts = [final[start:end] for start, end in self.spans]
        counts = [count_up_to_end(text, mask_id=canvas.mask_id, end_ids=canvas.end_ids) for text in texts]
        return Stats(
            nfe=last.nfe if last else 0,
            positions=last.positions if last else 0,
            useful_tokens=sum(useful for useful, _ in counts),
            seconds=self.seconds,
            peak_memory_bytes=0,
        )

    def piece(self, token: int) -> bytes:
        """What a token adds to a text; nothing for special tokens."""
        return self.pieces.get(token, b"")

    def text_of(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces.get(id, b"") for id in ids).decode("utf-8", "replace")
