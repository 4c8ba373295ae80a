"""Fast-dLLM's blocks, with their K/V caches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...models.transformer import DiffusionModel
from ..canvas import Canvas
from .base import WindowState
from .cache import CachedState, ForwardPlan


@dataclass(frozen=True)
class Blocks:
    """Fast-dLLM's blocks, from left to right, with its caches (arXiv 2505.22618).

    Each block opens with a forward of the whole canvas, in which its first token is committed: the
    shift leaves that position without a logit in what follows. Then only the block is forwarded
    (`dual`), or the block and all behind it (`prefix`), while every other position keeps the keys
    and values of the block's first forward, whether its token has been committed since or not.
    Without a cache each forward is of the whole canvas. Here so that published numbers can be
    reproduced; `Sliding` costs less and loses less.

    Attributes:
        size: positions in a block.
        stop: 0 goes on to the end of the canvas, as published; 1 stops with the text.
        cache: `none`, `prefix` or `dual`.
    """

    size: int
    stop: int
    cache: str

    @property
    def stops(self) -> bool:
        return bool(self.stop)

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, max(prompt, self.size)  # masks in the prompt make one block

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return BlocksState(model, canvas, self.size, self.cache)


class BlocksState(CachedState):
    """`windows.Blocks` at work."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, size: int, cache: str):
        super().__init__(model, canvas)
        self._cache = cache
        # Masks in the prompt make a block of their own.
        self._starts = np.array([0, *range(canvas.start, canvas.tokens.shape[1], size)])
        self._ends = np.append(self._starts[1:], canvas.tokens.shape[1])
        self._block = -1

    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> ForwardPlan:
        at = np.arange(masked.shape[1])
        block = int(np.searchsorted(self._ends, masked.any(axis=0).argmax(), side="right"))
        opens, self._block = block != self._block, block
        start, end = self._starts[block], self._ends[block]
        candidates = masked & (at >= start) & (at < end)
        everything = np.ones_like(masked)
        if opens and self._cache != "none" and candidates[:, start].any():
            candidates = candidates & (at == start)
        if opens or self._cache == "none":
            return ForwardPlan(self._real, candidates, everything)
        forwarded = (at >= start) & (at < (end if self._cache == "dual" else len(at)))
        return ForwardPlan(np.broadcast_to(forwarded, masked.shape) & self._real, candidates, everything)
