"""Adaptive commit rules: each step commits every token the model is sure of, and at least one.

A rule is a test, `passes`. The best candidate of every row is committed even if it fails the test: so every
step commits, and no rule needs more forwards than there are masks.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .base import Candidates, RuleState, WithoutMemory, largest, precedes


@dataclass(frozen=True)
class Adaptive(WithoutMemory):
    """The base of adaptive rules: no quota, and always the best candidate."""

    steps = None

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return masked

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        best = largest(candidates.scores, np.ones(len(quota), dtype=np.int64))
        return candidates.masked & self.passes(candidates) | best

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
class Factor(Adaptive):
    """The n most confident candidates, for the largest n with c(m) >= 1 - f / (m + 1) for every m <= n.

    c(m) is the m-th largest confidence (Fast-dLLM's factor-based decoding, arXiv 2505.22618).
    """

    f: float

    def passes(self, candidates: Candidates) -> mx.array:
        confidence = mx.where(candidates.masked, candidates.confidence, -mx.inf)
        earlier = precedes(confidence)  # [B, R, R]
        rank = earlier.sum(axis=-1) + 1
        fails = confidence < 1 - self.f / (rank + 1)
        return ~fails & ~(earlier & fails[:, None, :]).any(axis=-1)


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


@dataclass(frozen=True)
class Stability(Adaptive):
    """Confidence of at least `tau`, and KL(p now || p before) below `epsilon` nats in each of the last `span` steps (KLASS).

    A position that was no candidate in the previous step starts from 0 again.
    """

    tau: float
    epsilon: float
    span: int

    @property
    def needs_probs(self) -> bool:
        return True

    def open(self) -> RuleState:
        return StabilityState(self)


class StabilityState(Adaptive):
    """`Stability` at work: the previous step's distributions, and for how many steps each has been stable."""

    def __init__(self, rule: Stability):
        self._rule = rule
        self._before: tuple[NDArray[np.int32], mx.array, mx.array] | None = None  # positions, probs, stable steps

    def passes(self, candidates: Candidates) -> mx.array:
        """As `Adaptive.passes`.

        Raises:
            TypeError: `candidates.probs` is missing.
        """
        if candidates.probs is None:
            raise TypeError("stability compares distributions: Candidates.probs is missing")
        stable = self._stable_steps(candidates, candidates.probs)
        self._before = (candidates.positions, candidates.probs, stable)
        return (candidates.confidence >= self._rule.tau) & (stable >= self._rule.span)

    def _stable_steps(self, candidates: Candidates, now: mx.array) -> mx.array:
        """For how many steps each candidate's distribution has been stable, int `[B, R]`."""
        if self._before is None:
            return mx.zeros(candidates.scores.shape, dtype=mx.int32)
        positions, probs, stable = self._before
        index_of = np.full((len(positions), candidates.length), -1, dtype=np.int32)
        np.put_along_axis(index_of, positions, np.arange(positions.shape[1], dtype=np.int32)[None, :], axis=1)
        index = np.take_along_axis(index_of, candidates.positions, axis=1)  # [B, R], -1 for a new position
        at = mx.array(np.maximum(index, 0))
        before = mx.take_along_axis(probs, at[..., None], axis=1)
        divergence = (now * (mx.log(now + 1e-10) - mx.log(before + 1e-10))).sum(axis=-1)
        still = mx.array(index >= 0) & (divergence < self._rule.epsilon)
        return mx.where(still, mx.take_along_axis(stable, at, axis=1) + 1, 0)
