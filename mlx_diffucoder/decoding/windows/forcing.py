"""The window of block forcing: several blocks open at once, none of which sees a later one, and an exact cache."""

from dataclasses import dataclass, replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, predictor_of
from ..result import TILE
from .base import Forward, ForwardOutput, Part, StepResult, Window, WindowState, candidates_of
from .cache import AppendedKVCache


@dataclass(frozen=True)
class Forcing(Window):
    """Discrete diffusion forcing, D2F (arXiv 2508.09192), with the decisions of its published code.

    The known text sees itself; a block of masks sees the known text, the blocks before it and itself. So the keys and
    values of full blocks are exact, and computed once. Blocks are counted from the first mask.

    A step opens at most one block more, while no end token stands before its masks, and only if the forward then takes no
    more tiles of 32 rows; full blocks leave it. The first block is complete; each next becomes so once enough of the one
    before is committed. The rule must commit in every complete block.

    Attributes:
        block: positions in a block.
        add: the share of the last open block that must be committed before the next is opened.
        decoded: the share of a block that must be committed before the next is complete.
        reference: as published: count no rows, also fill what an end token stands before in open blocks, and leave out what is
            left of the canvas after the last whole block.
    """

    block: int
    add: float
    decoded: float
    reference: bool = False
    name = "forcing"

    @property
    def parameters(self) -> dict[str, float]:
        return {"block": self.block, "add": self.add, "decoded": self.decoded}

    @property
    def stops_at_end(self) -> bool:
        return not self.reference

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, masks

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return ForcingState(model, canvas, self)


class ForcingState(WindowState):
    """`Forcing` at work: which blocks are open, which of them are complete, and what is cached."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, window: Forcing):
        self._canvas, self._window, self._shift = canvas, window, model.shift
        masked = canvas.tokens == canvas.mask_id
        self._block = np.where(masked, (np.cumsum(masked) - 1) // window.block + 1, 0)  # [L]; 0 is the known text
        if window.reference and masked.sum() % window.block:
            self._block[self._block == self._block.max()] = -1  # never opened
        self._open, self._complete = [0], {0}
        self._cache = AppendedKVCache(len(masked))
        self._cached = np.zeros_like(masked)
        self._hidden, self._hidden_at = mx.zeros((1, 0, model.config.hidden_size)), np.zeros(0, dtype=np.int64)

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        self._advance(tokens)
        is_open = np.isin(self._block, self._open)
        masked = is_open & (tokens == self._canvas.mask_id)
        at = np.flatnonzero(is_open & ~self._cached)  # [W]
        hidden = yield Part(from_numpy(tokens[None, at]), from_numpy(at[None].astype(np.int32)), self._seen(at), self._cache)
        self._keep(at, masked)
        positions, is_candidate = candidates_of(masked)
        predicting = self._predicting(at, hidden, predictor_of(positions, self._shift))
        complete = np.where(np.isin(self._block, list(self._complete)), self._block, 0)
        span = int(at[0]), int(at[-1]) + 1
        return ForwardOutput(positions, is_candidate, predicting, len(at), span, forced=complete[positions])

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        left = (result.tokens == self._canvas.mask_id) & np.isin(self._block, self._open)
        return replace(result, done=not left.any() and self._following(result.tokens) is None)

    def _following(self, tokens: NDArray[np.int32]) -> int | None:
        """The next block to open: one with a mask that no end token stands before."""
        later = self._block[self._canvas.open_masks(tokens) & (self._block > self._open[-1])]
        return int(later.min()) if len(later) else None

    def _advance(self, tokens: NDArray[np.int32]) -> None:
        """Open the next block and complete others, where enough of the one before each is committed."""
        known = tokens != self._canvas.mask_id
        share = {block: known[self._block == block].mean() if block else 1.0 for block in self._open}
        following = self._following(tokens)
        full, enough = min(share.values()) == 1, share[self._open[-1]] >= self._window.add
        if following is not None and enough and (full or self._has_room(following)):
            self._open.append(following)
        self._complete |= {after for block, after in pairwise(self._open) if share[block] >= self._window.decoded}

    def _has_room(self, block: int) -> bool:
        """Whether a forward takes no more tiles with `block` than without it."""
        now, then = ((np.isin(self._block, blocks) & ~self._cached).sum() for blocks in (self._open, [*self._open, block]))
        return self._window.reference or bool(-(-then // TILE) == -(-now // TILE))

    def _seen(self, at: NDArray[np.int64]) -> mx.array:
        """What the positions `at` `[W]` attend to, bool `[1, 1, W, S]`: all that is cached, and no later block."""
        slots, block = self._cache.visible(self._cached), self._block[at]
        every = np.broadcast_to(slots, (len(at), len(slots)))
        return from_numpy(np.concatenate([every, block[None, :] <= block[:, None]], axis=1))[None, None]

    def _keep(self, at: NDArray[np.int64], masked: NDArray[np.bool_]) -> None:
        """Cache the full blocks of a forward of `at` `[W]` that no open block with a mask stands before."""
        first = self._block[masked].min() if masked.any() else self._block.max() + 1
        full = self._block[at] < first
        self._cache.keep(np.where(full, at, -1).astype(np.int32))
        self._cached[at[full]] = True

    def _predicting(self, at: NDArray[np.int64], hidden: mx.array, predictors: NDArray[np.int32]) -> mx.array:
        """The hidden states `[1, R, D]` of `predictors` `[R]`, after a forward of `at` `[W]`.

        A full block is not forwarded again, and its last row predicts the next token: that row's is stored.
        """
        hidden, at = mx.concatenate([self._hidden.astype(hidden.dtype), hidden], axis=1), np.append(self._hidden_at, at)
        row_of = {position: row for row, position in enumerate(at.tolist())}
        following = np.minimum(at + self._shift, len(self._block) - 1)
        stored = np.flatnonzero(self._cached[at] & ~self._cached[following])
        self._hidden, self._hidden_at = hidden[:, from_numpy(stored)], at[stored]
        return hidden[:, mx.array([row_of[one] for one in predictors.tolist()])]
