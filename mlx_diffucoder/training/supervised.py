"""Supervised training as a method of the trainer."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..models.transformer import DiffusionModel
from .batches import Batches
from .objective import loss
from .trainer import Arrays


class Supervised:
    """The masked-diffusion objective, the causal one, or both, on examples."""

    def __init__(self, batches: Batches, accumulate: int = 1):
        self._batches, self._accumulate = batches, accumulate

    def batches(self, model: DiffusionModel, step: int) -> Sequence[Arrays]:
        return [batch.arrays() for batch in self._batches.draw(step * self._accumulate, self._accumulate)]

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        return loss(model, *arrays)

    def news(self) -> dict[str, float]:
        return {}


def validation(batches: Batches) -> Callable[[DiffusionModel], float]:
    """The loss over all validation examples, with the same canvases and masks each time."""
    kept = batches.draw(0, batches.per_epoch)

    def evaluate(model: DiffusionModel) -> float:
        return sum(float(loss(model, *batch.arrays())) for batch in kept)

    return evaluate
