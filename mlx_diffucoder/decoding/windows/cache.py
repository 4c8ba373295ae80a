"""Windows at work that keep keys and values: what is forwarded among what is kept, and what is kept of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...models.transformer import DiffusionModel, LayerKV
from ..canvas import Canvas, masked_first
from .base import ForwardOutput, NoDrafts, candidates_of, refuse, rows_of

STEP = 64  # places that are added at once


def _first_run(forwarded: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Where the first run of True in each row of `[B, L]` starts and ends, `[B, 2]`."""
    start = forwarded.argmax(axis=1)
    over = ~forwarded & (np.arange(forwarded.shape[1]) > start[:, None])
    end = np.where(over.any(axis=1), over.argmax(axis=1), forwarded.shape[1])
    return np.stack([start, end], axis=1).astype(np.int32)


class CachedState(NoDrafts, ABC):
    """What windows that keep keys and values have in common: one forward of chosen positions."""

    ROUND = 1  # positions are forwarded in multiples of it: fewer shapes
    LEAST = 1  # candidates, where there are as many positions: the same

    def __init__(self, model: DiffusionModel, canvas: Canvas):
        self._model, self._mask_id = model, canvas.mask_id
        self._padding = canvas.padding[:, None]
        self._real = np.arange(canvas.tokens.shape[1]) >= self._padding  # [B, L]
        self._length = canvas.tokens.shape[1]
        self._places = 0
        self._kept: LayerKV = []

    @abstractmethod
    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> "ForwardPlan":
        """What to do with a canvas of these masks, bool `[B, L]`, and of these positions to look at again."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> ForwardOutput:
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
        return ForwardOutput(positions, valid, again, shown, width, window=_first_run(choice.forwarded))

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
class ForwardPlan:
    """Bool `[B, L]` each: what to forward, what may be committed, what may be attended to."""

    forwarded: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    visible: NDArray[np.bool_]
