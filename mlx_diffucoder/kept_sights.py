"""Windows at work that keep keys and values: what is forwarded among what is kept, and what is kept of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, masked_first
from .model import Dream, Layers
from .sights import NoDrafts, View, candidates_of, refuse, rows_of

STEP = 64  # places that are added at once


def _first_run(forwarded: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Where the first run of True in each row of `[B, L]` starts and ends, `[B, 2]`."""
    start = forwarded.argmax(axis=1)
    over = ~forwarded & (np.arange(forwarded.shape[1]) > start[:, None])
    end = np.where(over.any(axis=1), over.argmax(axis=1), forwarded.shape[1])
    return np.stack([start, end], axis=1).astype(np.int32)


class _KeptSight(NoDrafts, ABC):
    """What windows that keep keys and values have in common: one forward of chosen positions."""

    ROUND = 1  # positions are forwarded in multiples of it: fewer shapes
    LEAST = 1  # candidates, where there are as many positions: the same

    def __init__(self, model: Dream, canvas: Canvas):
        self._model, self._mask_id = model, canvas.mask_id
        self._padding = canvas.padding[:, None]
        self._real = np.arange(canvas.tokens.shape[1]) >= self._padding  # [B, L]
        self._length = canvas.tokens.shape[1]
        self._places = 0
        self._kept: Layers = []

    @abstractmethod
    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> "_Choice":
        """What to do with a canvas of these masks, bool `[B, L]`, and of these positions to look at again."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> View:
        refuse(every)
        choice = self._choose(known == self._mask_id, again)
        count = choice.forwarded.sum(axis=1, keepdims=True)
        width = -(-int(count.max()) // self.ROUND) * self.ROUND
        index, _ = masked_first(choice.forwarded)  # ascending where forwarded: [B, W]
        # Where a row forwards less than the widest, its last position is forwarded again: it
        # writes the same keys and values to the same place.
        index = np.take_along_axis(index, np.minimum(np.arange(width), count - 1), axis=1)
        predictor = np.roll(choice.forwarded, 1, axis=1)  # whether the position to the left is forwarded
        positions, valid, again = candidates_of(choice.candidates, again & choice.forwarded & predictor, self.LEAST)
        rows = np.stack([np.searchsorted(row[:n], at) for row, n, at in zip(index, count[:, 0], positions - 1, strict=True)])
        hidden = self._forward(tokens, index, self._real & choice.visible)
        shown = rows_of(hidden, np.clip(rows, 0, width - 1))
        return View(positions, valid, again, shown, width, window=_first_run(choice.forwarded))

    def _forward(self, tokens: mx.array, index: NDArray[np.int32], visible: NDArray[np.bool_]) -> mx.array:
        """Forward the positions `index` `[B, W]`, keeping their keys and values; `[B, W, D]`.

        The kept ones stand in as many places as the canvas was forwarded so far, in steps of
        `STEP`, and the last place is the canvas's last position's: so a long canvas whose answer is
        short costs what a short canvas costs. A place that is new, or was the last one's before, is
        not attended to before it is written.
        """
        far = int(np.where(index < self._length - 1, index, -1).max()) + 2
        self._places = min(self._length, max(self._places, -(-far // STEP) * STEP))
        position_of = np.append(np.arange(self._places - 1), self._length - 1)
        at = mx.array(index)
        hidden, self._kept = self._model.window(
            mx.take_along_axis(tokens, at, axis=1),
            at - mx.array(self._padding),
            mx.array(visible[:, position_of])[:, None, None, :],
            mx.array(np.minimum(index, self._places - 1)),
            self._kept,
        )
        return hidden


@dataclass(frozen=True, eq=False)
class _Choice:
    """Bool `[B, L]` each: what to forward, what may be committed, what may be attended to."""

    forwarded: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    visible: NDArray[np.bool_]


class SlidingSight(_KeptSight):
    """`windows.Sliding` at work."""

    ROUND = 8

    def __init__(self, model: Dream, canvas: Canvas, width: int, suffix: int, refresh: int):
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

    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> _Choice:
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
        return _Choice(forwarded, candidates, visible)

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


class BlockSight(_KeptSight):
    """`windows.Blocks` at work."""

    def __init__(self, model: Dream, canvas: Canvas, size: int, cache: str):
        super().__init__(model, canvas)
        self._cache = cache
        # Masks in the prompt make a block of their own.
        self._starts = np.array([0, *range(canvas.start, canvas.tokens.shape[1], size)])
        self._ends = np.append(self._starts[1:], canvas.tokens.shape[1])
        self._block = -1

    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> _Choice:
        at = np.arange(masked.shape[1])
        block = int(np.searchsorted(self._ends, masked.any(axis=0).argmax(), side="right"))
        opens, self._block = block != self._block, block
        start, end = self._starts[block], self._ends[block]
        candidates = masked & (at >= start) & (at < end)
        everything = np.ones_like(masked)
        if opens and self._cache != "none" and candidates[:, start].any():
            candidates = candidates & (at == start)
        if opens or self._cache == "none":
            return _Choice(self._real, candidates, everything)
        forwarded = (at >= start) & (at < (end if self._cache == "dual" else len(at)))
        return _Choice(np.broadcast_to(forwarded, masked.shape) & self._real, candidates, everything)
