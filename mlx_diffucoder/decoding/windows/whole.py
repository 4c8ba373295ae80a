"""The window that forwards the whole canvas."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...models.transformer import DiffusionModel
from ..canvas import Canvas, predictor_of
from .base import Forward, ForwardOutput, Part, Window, WindowState, candidates_of, rows_of, whole_span


@dataclass(frozen=True)
class Whole(Window):
    """Forward the whole canvas in every step and cache nothing, as the reference decoder does."""

    name = "whole"

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return prompt + masks, masks

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return WholeState(model, canvas)


class WholeState(WindowState):
    """`Whole` at work."""

    def __init__(self, model: DiffusionModel, canvas: Canvas):
        self._model, self._mask_id, self._padding = model, canvas.mask_id, canvas.padding

    def forward(self, tokens: mx.array, on_host: NDArray[np.int32]) -> Forward:
        positions, masked = candidates_of(on_host == self._mask_id)
        hidden = yield Part(tokens)  # [B, L, D]
        predicting = rows_of(hidden, predictor_of(positions, self._padding, self._model.shift))
        length = on_host.shape[1]
        return ForwardOutput(positions, masked, predicting, length, whole_span(self._padding, length))
