"""The rule of decoding from left to right."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from .base import Candidates, WithoutMemory, largest


@dataclass(frozen=True)
class Leftmost(WithoutMemory):
    """The leftmost mask: one token a step, as an autoregressive model writes, but with the masks after it in view.

    On the window `tree` it commits only what a guess verified.
    """

    steps = None

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return np.minimum(masked, 1)

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        return largest(mx.where(candidates.masked, -from_numpy(candidates.positions).astype(mx.float32), -mx.inf), quota)
