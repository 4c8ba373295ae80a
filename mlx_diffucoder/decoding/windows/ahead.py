"""The window that opens a block before the one on its left is finished."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, predictor_of
from .base import Forward, ForwardOutput, Part, StepResult, Window, WindowState, candidates_of, rows_of


@dataclass(frozen=True)
class Ahead(Window):
    """d3LLM's decoding, as its published code does it without a cache: each forward is of the whole canvas.

    A step opens at most one block more that has masks. A rule may commit in all open blocks, but is only made to commit in
    the first complete one that has masks. That is the block of the first mask, whatever `decoded` is: the block on its
    left is full.

    Before each forward, everything behind the first end token of a hole becomes that token.

    Attributes:
        block: positions in a block; blocks are counted from the first hole.
        add: the share of the last open block that must be committed before the next is opened.
        decoded: the share of a block that makes the next one complete.
    """

    block: int
    add: float
    decoded: float
    name = "ahead"

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, masks

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return AheadState(model, canvas, self)


class AheadState(WindowState):
    """`Ahead` at work: how many blocks are open. What stands before the first hole is the first block, and open."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, window: Ahead):
        self._canvas, self._shift, self._add = canvas, model.shift, window.add
        length = len(canvas.tokens)
        self._edges = sorted({0, *range(canvas.start, length, window.block), length})
        self._open = 1
        self._filled = canvas.tokens

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        self._filled = self._with_ends(tokens)
        masked = tokens == self._canvas.mask_id  # published so: a step may commit what was filled just before it
        self._open_next()
        positions, is_candidate = candidates_of(masked & (np.arange(len(tokens)) < self._edges[self._open]))
        hidden = yield Part(from_numpy(self._filled[None]))  # [1, L, D]
        first = self._edges[int(np.searchsorted(self._edges, masked.argmax(), side="right"))]  # the end of its block
        predicting = rows_of(hidden, predictor_of(positions, self._shift))
        forced = (positions < first).astype(np.int32)
        return ForwardOutput(positions, is_candidate, predicting, len(tokens), (0, len(tokens)), forced=forced)

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        """The result on the canvas that was forwarded, which may have more end tokens than the one before the step."""
        tokens = self._filled.copy()
        tokens[output.positions[result.commit]] = result.chosen[result.commit]
        return replace(result, tokens=tokens)

    def _open_next(self) -> None:
        """Open the next block that has masks, if enough of the last open one is committed."""
        left = [(self._filled[a:b] == self._canvas.mask_id).mean() for a, b in pairwise(self._edges)]
        if 1 - left[self._open - 1] >= self._add:
            following = range(self._open, len(left))
            self._open = next((at for at in following if left[at]), len(left) - 1) + 1

    def _with_ends(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        tokens = tokens.copy()
        for start, stop in self._canvas.holes:
            ends = np.flatnonzero(np.isin(tokens[start:stop], list(self._canvas.end_ids)))
            if len(ends):
                tokens[start + ends[0] : stop] = tokens[start + ends[0]]
        return tokens
