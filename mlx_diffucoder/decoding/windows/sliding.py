"""The sliding window, with its K/V cache."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...models.transformer import DiffusionModel
from ..canvas import Canvas
from .base import StopsWithText, WindowState
from .cache import CachedState, ForwardPlan


@dataclass(frozen=True)
class Sliding(StopsWithText):
    """Forward from the first position that is not settled to some masks ahead; freeze what is behind.

    A position is settled when it was forwarded after its token was committed: only then do its
    keys and values belong to that token (dKV-Cache, arXiv 2505.15781). The shift makes position
    i - 1 predict position i, so it is forwarded again as long as i is masked. Of the masks behind
    the window the next few and the last one are shown to the model (Streaming-dLLM, 2601.17917;
    DPad, 2508.14148), the others are not forwarded at all. So that forwards have few shapes, each is
    compiled once on a GPU, positions come in multiples of 8: the suffix takes what is left.

    Where there are several holes, each has such a window, and all slide at once. The text given around
    them is forwarded in the first look, also that behind a hole, and seen from then on.

    Attributes:
        width: positions from the first mask on whose masks may be committed.
        suffix: positions behind them that are only shown, at least.
        refresh: commits after which everything settled is encoded anew; 0 is never.
    """

    width: int
    suffix: int
    refresh: int

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        reach = self.width + self.suffix + SlidingState.ROUND
        return (prompt + masks if self.refresh else min(prompt + masks, prompt + reach)), min(self.width, masks)

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return SlidingState(model, canvas, self.width, self.suffix, self.refresh)


class SlidingState(CachedState):
    """`windows.Sliding` at work."""

    ROUND = 8

    def __init__(self, model: DiffusionModel, canvas: Canvas, width: int, suffix: int, refresh: int):
        super().__init__(model, canvas)
        self.LEAST = width
        self._width, self._suffix, self._refresh_after = width, suffix, refresh
        self._given = canvas.tokens != canvas.mask_id
        # Each hole with the text before it, and the last one with all behind it too: [B, 1] each.
        stops = [*canvas.holes[:, :-1, 1].T, np.full(len(canvas.tokens), self._length)]
        starts = [np.zeros(len(canvas.tokens), dtype=np.int32), *stops[:-1]]
        self._stretches = [(start[:, None], stop[:, None]) for start, stop in zip(starts, stops, strict=True)]
        self._settled = ~self._real  # padding is never forwarded: it must not hold the window open
        self._masks_at_refresh: int | None = None

    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> ForwardPlan:
        self._settled &= ~masked  # what was taken back is not settled any more
        self._refresh(int(masked.sum()))
        shown = self._given & ~self._settled  # given text is seen from the first look on, wherever it stands
        candidates = np.zeros_like(masked)
        for low, high in self._stretches:
            more, near = self._slide(masked, again, low, high)
            shown, candidates = shown | more, candidates | near
        # Given text that was seen is forwarded again only where it predicts what stands to its right.
        predicts = np.roll(masked | again, -1, axis=1)
        shown &= ~(self._given & self._settled) | predicts
        # A row that has no mask left only keeps the others company, with its last position.
        last = np.arange(self._length) == self._length - 1
        forwarded = self._real & shown & masked.any(axis=1, keepdims=True) | last
        visible = forwarded | self._settled
        self._settled |= forwarded & ~masked
        return ForwardPlan(forwarded, candidates, visible)

    def _slide(
        self, masked: NDArray[np.bool_], again: NDArray[np.bool_], low: NDArray[np.int32], high: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """What is shown, and may be committed, of the one hole from `low` to `high`, `[B, 1]` each."""
        at = np.arange(self._length)
        inside = (at >= low) & (at < high)
        masked = masked & inside
        has_mask = masked.any(axis=1, keepdims=True)
        first = np.where(has_mask, masked.argmax(axis=1, keepdims=True), high)
        stale = np.where(inside & ~self._settled, at, high).min(axis=1, keepdims=True)
        # One more to the left, where the first stale one is to be looked at again.
        predictor = np.take_along_axis(again, np.minimum(stale, self._length - 1), axis=1)
        start = np.minimum(stale - predictor, first - has_mask)
        end = first + self._width
        # The suffix takes what is left of the last `ROUND` positions.
        count = end + self._suffix - start + 1
        shown = (at >= start) & (at < np.minimum(end + self._suffix + -count % self.ROUND, high))
        return shown, masked & (at < end)

    def _refresh(self, masks: int) -> None:
        if self._masks_at_refresh is None:
            self._masks_at_refresh = masks
        if self._refresh_after and self._masks_at_refresh - masks >= self._refresh_after:
            self._masks_at_refresh = masks
            self._settled = ~self._real
