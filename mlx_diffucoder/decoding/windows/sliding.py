"""The sliding window, with its K/V cache."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...models.kv import LayerKV
from ...models.transformer import DiffusionModel
from ..canvas import Canvas
from .base import Forward, Window, WindowState
from .cache import CanvasCache, ForwardPlan

MULTIPLE = 8
"""Positions are forwarded in multiples of this, so that forwards have few shapes."""


@dataclass(frozen=True)
class Sliding(Window):
    """Forward a window around the first masks; keep the text before it in the K/V cache, and drop most masks after it.

    The K/V of a position are valid once it was forwarded after its token was committed: only then do they belong to
    that token (dKV-Cache, arXiv 2505.15781). With the shift, position i - 1 predicts position i, so it is forwarded as
    long as i is masked. Of the masks after the window only the next few and the canvas's last position are forwarded
    (Streaming-dLLM, arXiv 2601.17917; DPad, arXiv 2508.14148).

    On a canvas with several holes, each hole has its own window, and all of them slide at once. Known text is
    forwarded in the first step, even after a hole, and attended to from then on. `plan_forward` shows a step.

    Attributes:
        width: positions from the first mask on whose masks may be committed.
        suffix: positions after the width that are forwarded as context, at least.
        refresh: after so many commits, all K/V are computed again; 0 is never.
    """

    name = "sliding"
    width: int
    suffix: int
    refresh: int

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        reach = prompt + self.width + self.suffix + MULTIPLE
        return (prompt + masks if self.refresh else min(prompt + masks, reach)), min(self.width, masks)

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return SlidingState(model, canvas, self)


class SlidingState(WindowState):
    """`Sliding` at work: the cache, and which of its K/V are valid.

    Args:
        layers: K/V that are known at the start, as in `CanvasCache`.
        valid: bool `[L]`, the positions they belong to.
    """

    def __init__(
        self,
        model: DiffusionModel,
        canvas: Canvas,
        window: Sliding,
        layers: LayerKV | None = None,
        valid: NDArray[np.bool_] | None = None,
    ):
        self._window, self._mask_id = window, canvas.mask_id
        self._layout = Layout.of(canvas, model.shift)
        self.cache = CanvasCache(model, canvas, multiple=MULTIPLE, candidates=window.width, layers=layers)
        self.cache_valid = np.zeros(len(canvas.tokens), dtype=np.bool_) if valid is None else valid
        self._masks_at_refresh = int((canvas.tokens == canvas.mask_id).sum())

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        masked = tokens == self._mask_id
        masks = int(masked.sum())
        if self._window.refresh and self._masks_at_refresh - masks >= self._window.refresh:
            self._masks_at_refresh = masks
            self.cache_valid = np.zeros_like(masked)
        plan = plan_forward(masked, self.cache_valid, self._layout, self._window.width, self._window.suffix)
        if plan.cache_valid is not None:
            self.cache_valid = plan.cache_valid
        return (yield from self.cache.forward(tokens, plan))


@dataclass(frozen=True, eq=False)
class Layout:
    """What stays the same on a canvas while it is decoded.

    Attributes:
        given: bool `[L]`, text that was known at the start.
        parts: a start and an end for each hole: the hole with the text before it, and for the last hole also the text
            after it.
        shift: `DiffusionModel.shift`.
    """

    given: NDArray[np.bool_]
    parts: tuple[tuple[int, int], ...]
    shift: int

    @classmethod
    def of(cls, canvas: Canvas, shift: int) -> Self:
        """The layout of a canvas."""
        edges = [0, *canvas.holes[:-1, 1].tolist(), len(canvas.tokens)]
        return cls(canvas.tokens != canvas.mask_id, tuple(pairwise(edges)), shift)


def plan_forward(
    masked: NDArray[np.bool_],
    cache_valid: NDArray[np.bool_],
    layout: Layout,
    width: int,
    suffix: int,
) -> ForwardPlan:
    """Plan one forward of the sliding window.

    A step with width 6 and suffix 2, on a canvas with 6 known tokens (`k`), committed tokens (`c`) and masks (`_`):

        position     0         1         2         3
                     0123456789012345678901234567890
        canvas       kkkkkkccccc_c_c________________
        cache_valid  ########  #
        forwarded            ###############       #
        candidates              # # ##
        attended     #######################       #
        then valid   ########### # #

    Tokens 8, 9, 12 and 14 were committed in the last step, so their K/V are still those of a mask. The window
    starts at the first position without valid K/V, 8, or at the one that predicts the first mask if that comes
    before it, and ends `suffix` positions after the `width`. The suffix is extended until the window and the canvas's
    last position make a multiple of `MULTIPLE`; here by 4, to 16. Everything before the window is only attended to;
    nothing after it is, except the last position.

    Args:
        masked: bool `[L]`.
        cache_valid: bool `[L]`, the positions with valid K/V, as `ForwardPlan.cache_valid`.
        layout: of the canvas.
        width, suffix: as in `Sliding`.
    """
    forwarded, candidates = layout.given & ~cache_valid, np.zeros_like(masked)
    for start, end in layout.parts:
        window, near = _window_in(masked, cache_valid, layout, width, suffix, start, end)
        forwarded, candidates = forwarded | window, candidates | near
    # Given text with valid K/V is forwarded only to predict its neighbour.
    forwarded &= ~(layout.given & cache_valid) | np.roll(masked, -layout.shift)
    forwarded[-1] = True
    attended = forwarded | cache_valid
    return ForwardPlan(forwarded, candidates, attended, attended & ~masked)


def _window_in(
    masked: NDArray[np.bool_], valid: NDArray[np.bool_], layout: Layout, width: int, suffix: int, start: int, end: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The window and the candidates in one part of the canvas, from `start` to `end`; bool `[L]` each."""
    at = np.arange(len(masked))
    masks, stale = np.flatnonzero(masked[start:end]), np.flatnonzero(~valid[start:end])
    first_mask = start + int(masks[0]) if len(masks) else end
    low = min(start + int(stale[0]) if len(stale) else end, first_mask - layout.shift * bool(len(masks)))
    high = first_mask + width + suffix
    high += -(high - low + 1) % MULTIPLE  # 1 for the canvas's last position
    inside = (at >= start) & (at < end)
    return (at >= low) & (at < min(high, end)), masked & inside & (at < first_mask + width)
