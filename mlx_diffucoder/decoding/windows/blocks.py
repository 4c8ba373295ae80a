"""Fast-dLLM's blocks, with their K/V caches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.transformer import DiffusionModel
from ..canvas import Canvas
from .base import Forward, Window, WindowState
from .cache import CanvasCache, ForwardPlan


@dataclass(frozen=True)
class Blocks(Window):
    """Fast-dLLM's blocks, from left to right, with its caches (arXiv 2505.22618).

    Each block starts with a forward of the whole canvas, in which only the block's first token is committed: by the
    shift, no later forward predicts that position. Later forwards are of the block alone (`dual`), or of the block and
    everything after it (`prefix`). The other positions keep the K/V of the block's first forward, even if
    their token has been committed since. Without a cache every forward is of the whole canvas.

    This window is here to reproduce published numbers; `Sliding` costs less and changes the text less.

    Attributes:
        size: positions in a block.
        stop: 1 stops when the text has ended; 0 goes on to the end of the canvas, as published.
        cache: `none`, `prefix` or `dual`.
    """

    size: int
    stop: int
    cache: str

    @property
    def name(self) -> str:
        return "blocks" if self.cache == "none" else f"blocks-{self.cache}"

    @property
    def parameters(self) -> dict[str, Any]:
        return {"size": self.size, "stop": self.stop}

    @property
    def stops_at_end(self) -> bool:
        return bool(self.stop)

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, max(prompt, self.size)  # masks in the prompt make one block

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return BlocksState(model, canvas, self)


class BlocksState(WindowState):
    """`Blocks` at work: the cache, and the number of the current block."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, window: Blocks):
        self._window, self._mask_id, self._shift = window, canvas.mask_id, model.shift
        self._cache = CanvasCache(model, canvas)
        length = len(canvas.tokens)
        # Masks in the prompt form a separate block.
        self._edges = np.array([0, *range(canvas.start, length, window.size), length])
        self._block = -1

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        masked = tokens == self._mask_id
        block = int(np.searchsorted(self._edges[1:], masked.argmax(), side="right"))
        is_new, self._block = block != self._block, block
        start, end = self._edges[block : block + 2]
        plan = plan_forward(masked, int(start), int(end), self._window.cache, is_new=is_new, shift=self._shift)
        return (yield from self._cache.forward(tokens, plan))


def plan_forward(masked: NDArray[np.bool_], start: int, end: int, cache: str, *, is_new: bool, shift: int) -> ForwardPlan:
    """Plan one forward of the block from `start` to `end`.

    Args:
        masked: bool `[L]`.
        start, end: the block, which holds the first mask.
        cache: as in `Blocks`.
        is_new: whether this is the block's first forward.
        shift: `DiffusionModel.shift`.
    """
    at, every = np.arange(len(masked)), np.ones_like(masked)
    candidates = masked & (at >= start) & (at < end)
    if cache == "none":
        return ForwardPlan(every, candidates, every)
    if is_new:
        unpredicted = candidates & (at < start + shift)  # by any later forward of the block
        return ForwardPlan(every, unpredicted if unpredicted.any() else candidates, every)
    return ForwardPlan((at >= start) & (at < (end if cache == "dual" else len(at))), candidates, every)
