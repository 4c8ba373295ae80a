"""A model that was narrowed to float16, and whose activations are too large for it."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import CheckpointError
from ..models.transformer import DiffusionModel

T = TypeVar("T")
_log = logging.getLogger("mlx_diffucoder")


def in_range(model: DiffusionModel, decode: Callable[[], Iterator[T]]) -> Iterator[T]:
    """The steps of `decode`; where the first is not finite in float16, a model that was narrowed to it is widened, for good.

    Raises:
        CheckpointError: the network's output is not finite.
    """
    steps = decode()
    try:
        first = next(steps)
    except CheckpointError:
        if model.widen is None:
            raise
        _log.warning("note: the model's activations are too large for float16: starting again in the weights' own type")
        model.widen(model)
        model.widen = None
        yield from decode()
    else:
        yield first
        yield from steps
