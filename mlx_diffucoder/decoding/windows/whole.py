"""The window that forwards the whole canvas."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...models.transformer import DiffusionModel, Positions, left_padded
from ..canvas import Canvas
from .base import ForwardOutput, NoDrafts, StopsWithText, WindowState, candidates_of, rows_of


@dataclass(frozen=True)
class Whole(StopsWithText):
    """Forward the whole canvas, keep nothing: the reference."""

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, masks

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return WholeState(model, canvas)


class WholeState(NoDrafts):
    """`windows.Whole` at work."""

    def __init__(self, model: DiffusionModel, canvas: Canvas):
        self._model = model
        self._padding = canvas.padding[:, None]
        self._positions: Positions = 0
        self._mask: mx.array | None = None
        if canvas.padding.any():
            self._positions, self._mask = left_padded(mx.array(canvas.padding), canvas.tokens.shape[1])
        self._mask_id = canvas.mask_id

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> ForwardOutput:
        positions, valid, again = candidates_of(known == self._mask_id, again)
        hidden = self._model.model(tokens, self._positions, self._mask, None)
        # Position i is predicted by row i - 1, and a row's first one, as in the reference, by itself.
        shown = rows_of(hidden, np.maximum(positions - 1, self._padding))
        logits = None
        if every:
            logits = self._model.logits(hidden)
            logits = mx.concatenate([logits[:, :1], logits[:, :-1]], axis=1)  # [B, L, V]
        return ForwardOutput(positions, valid, again, shown, known.shape[1], every=logits)
