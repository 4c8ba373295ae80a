"""The window that opens a block before the one on its left is finished."""

from dataclasses import dataclass, replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, predictor_of
from .base import Forward, ForwardOutput, Part, StepResult, Window, WindowState, candidates_of, rows_of, whole_span


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
        length = canvas.tokens.shape[1]
        self._edges = sorted({0, *range(canvas.start, length, window.block), length})
        self._open = 1
        self._filled = canvas.tokens

    def forward(self, tokens: mx.array, on_host: NDArray[np.int32]) -> Forward:
        self._filled = self._with_ends(on_host)
        masked = on_host == self._canvas.mask_id  # published so: a step may commit what was filled just before it
        self._open_next()
        length = on_host.shape[1]
        at = np.arange(length)
        positions, is_candidate = candidates_of(masked & (at < self._edges[self._open]))
        hidden = yield Part(from_numpy(self._filled))  # [1, L, D]
        first = self._edges[int(np.searchsorted(self._edges, masked.argmax(), side="right"))]  # the end of its block
        predicting = rows_of(hidden, predictor_of(positions, self._canvas.padding, self._shift))
        span = whole_span(self._canvas.padding, length)
        return ForwardOutput(positions, is_candidate, predicting, length, span, forced=(positions < first).astype(np.int32))

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        """The result on the canvas that was forwarded, which may have more end tokens than the one before the step."""
        at = output.positions[result.commit]
        tokens = self._filled.copy()
        tokens[0, at] = result.chosen[result.commit]
        return replace(result, tokens=from_numpy(tokens))

    def _open_next(self) -> None:
        """Open the next block that has masks, if enough of the last open one is committed."""
        left = [(self._filled[0, a:b] == self._canvas.mask_id).mean() for a, b in pairwise(self._edges)]
        if 1 - left[self._open - 1] >= self._add:
            following = range(self._open, len(left))
            self._open = next((at for at in following if left[at]), len(left) - 1) + 1

    def _with_ends(self, on_host: NDArray[np.int32]) -> NDArray[np.int32]:
        tokens = on_host.copy()
        for start, stop in self._canvas.holes[0]:
            ends = np.flatnonzero(np.isin(tokens[0, start:stop], list(self._canvas.end_ids)))
            if len(ends):
                tokens[0, start + ends[0] : stop] = tokens[0, start + ends[0]]
        return tokens
