"""The window that forwards the whole canvas."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, predictor_of
from .base import Forward, ForwardOutput, Part, Window, WindowState, candidates_of, rows_of


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
        self._shift, self._mask_id = model.shift, canvas.mask_id

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        positions, masked = candidates_of(tokens == self._mask_id)
        hidden = yield Part(from_numpy(tokens[None]))  # [1, L, D]
        predicting = rows_of(hidden, predictor_of(positions, self._shift))
        return ForwardOutput(positions, masked, predicting, len(tokens), (0, len(tokens)))
