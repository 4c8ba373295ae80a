"""Adaptive commit rules: each step commits every token the model is sure of, and at least one.

A rule is a test, `passes`. The best candidate of every row, or of each group that the window forces, is committed even
if it fails the test: so every step commits, and no rule needs more forwards than there are masks.
"""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from .base import Candidates, WithoutMemory, largest, precedes


@dataclass(frozen=True)
class Adaptive(WithoutMemory):
    """The base of adaptive rules: no quota, and always the best candidate."""

    steps = None

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return masked

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        return candidates.masked & self.passes(candidates) | _best_of_each(candidates)

    def passes(self, candidates: Candidates) -> mx.array:
        """Which candidates pass the test, bool `[B, R]`. The result is ignored where `candidates.masked` is False.

        Raises:
            TypeError: the rule defines no test.
        """
        raise TypeError(f"{type(self).__name__} must define `passes`")


@dataclass(frozen=True)
class Threshold(Adaptive):
    """Confidence of at least `tau` (Fast-dLLM, arXiv 2505.22618)."""

    tau: float

    def passes(self, candidates: Candidates) -> mx.array:
        return candidates.confidence >= self.tau


@dataclass(frozen=True)
class Joint(Adaptive):
    """The leftmost candidates, as long as the product of their confidences is at least `tau`.

    So all that a step commits is right with about that probability, where a threshold bounds each token alone. A mask that the
    model is unsure of ends it: what is after it was predicted without it. Source: our own.
    """

    tau: float

    def passes(self, candidates: Candidates) -> mx.array:
        at = candidates.positions
        upto = from_numpy(at[:, None, :] <= at[:, :, None]) & candidates.masked[:, None, :]
        return mx.where(upto, candidates.confidence[:, None, :], 1).prod(axis=-1) >= self.tau


@dataclass(frozen=True)
class Forcing(Adaptive):
    """Probability above `skip`, and the most probable token of each complete block (D2F, arXiv 2508.09192)."""

    skip: float

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        scores = mx.where(candidates.masked, candidates.confidence, -mx.inf)
        return super().commit(replace(candidates, scores=scores), quota, key)

    def passes(self, candidates: Candidates) -> mx.array:
        return candidates.confidence > self.skip


@dataclass(frozen=True)
class Entropy(Adaptive):
    """Entropy below `gamma` nats, each candidate by itself (d3LLM's published code)."""

    gamma: float

    def passes(self, candidates: Candidates) -> mx.array:
        return candidates.entropy < self.gamma


@dataclass(frozen=True)
class EntropyBound(Adaptive):
    """In ascending order of entropy, the candidates whose predecessors' entropies sum to at most `gamma` nats.

    EB-Sampler's bound, cumsum(H) - cummax(H) <= gamma (arXiv 2505.24857).
    """

    gamma: float

    def passes(self, candidates: Candidates) -> mx.array:
        certainty = mx.where(candidates.masked, -candidates.entropy, -mx.inf)
        before = mx.where(precedes(certainty), candidates.entropy[:, None, :], 0)
        return before.sum(axis=-1) <= self.gamma


def _best_of_each(candidates: Candidates) -> mx.array:
    """The best masked candidate of each forced group, bool `[B, R]`."""
    if candidates.forced is None:
        return largest(candidates.scores, np.ones(len(candidates.positions), dtype=np.int64))
    group = candidates.forced
    beaten = precedes(candidates.scores) & (group[:, None, :] == group[:, :, None])
    return candidates.masked & (group > 0) & ~beaten.any(axis=-1)
