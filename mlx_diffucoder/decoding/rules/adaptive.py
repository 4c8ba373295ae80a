"""Adaptive commit rules: as many tokens a step as the model is sure of, and at least one.

Each takes what passes its test and, beside it, the best candidate of every row that has one: so
each step commits, and no rule needs more forwards than there are masks.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .base import Candidates, RuleState, WithoutRemasking, largest, precedes


@dataclass(frozen=True)
class Adaptive(WithoutRemasking):
    """What the rules have in common: no quota, and the best candidate always."""

    @property
    def steps(self) -> None:
        return None

    def open(self) -> RuleState:
        return self

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return masked

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        best = largest(candidates.scores, np.ones(len(quota), dtype=np.int64))
        return candidates.valid & self.passes(candidates) | best

    def passes(self, candidates: Candidates) -> mx.array:
        """Bool `[B, R]`; what it says where there is no candidate is not used."""
        raise TypeError(f"{type(self).__name__} has no test of its own")


@dataclass(frozen=True)
class Threshold(Adaptive):
    """Confidence of `tau` or more (Fast-dLLM, arXiv 2505.22618)."""

    tau: float

    def passes(self, candidates: Candidates) -> mx.array:
        return candidates.confidence >= self.tau


@dataclass(frozen=True)
class Factor(Adaptive):
    """By falling confidence, the longest prefix with c(n) >= 1 - f / (n + 1) (Fast-dLLM, arXiv 2505.22618)."""

    f: float

    def passes(self, candidates: Candidates) -> mx.array:
        confidence = mx.where(candidates.valid, candidates.confidence, -mx.inf)
        earlier = precedes(confidence)  # [B, R, R]: whether the second stands before the first
        place = earlier.sum(axis=-1) + 1
        fails = confidence < 1 - self.f / (place + 1)
        return ~fails & ~(earlier & fails[:, None, :]).any(axis=-1)


@dataclass(frozen=True)
class EntropyBound(Adaptive):
    """By rising entropy, as long as the entropies of those before sum to `gamma` nats at most.

    EB-Sampler's bound, cumsum(H) - cummax(H) <= gamma (arXiv 2505.24857).
    """

    gamma: float

    def passes(self, candidates: Candidates) -> mx.array:
        certainty = mx.where(candidates.valid, -candidates.entropy, -mx.inf)
        before = mx.where(precedes(certainty), candidates.entropy[:, None, :], 0)
        return before.sum(axis=-1) <= self.gamma


@dataclass(frozen=True)
class LocalRelaxation(Adaptive):
    """Confidence of `tau`, or of `relaxed` within `radius` positions of one that has `tau` (LocalLeap)."""

    tau: float
    relaxed: float
    radius: int

    def passes(self, candidates: Candidates) -> mx.array:
        anchors = candidates.valid & (candidates.confidence >= self.tau)
        at = candidates.positions
        near = np.abs(at[:, :, None] - at[:, None, :]) <= self.radius  # [B, R, R]
        near_anchor = (mx.array(near) & anchors[:, None, :]).any(axis=-1)
        return anchors | near_anchor & (candidates.confidence >= self.relaxed)


@dataclass(frozen=True)
class Prior(Adaptive):
    """Confidence that decays with the distance from the row's first mask: the left goes first.

    PC-Sampler's positional weight, exp(-decay * distance) (arXiv 2508.13021), on the threshold rule.
    """

    tau: float
    decay: float

    def passes(self, candidates: Candidates) -> mx.array:
        at = mx.array(candidates.positions)
        first = mx.where(candidates.valid, at, candidates.length).min(axis=1, keepdims=True)
        return candidates.confidence * mx.exp(-self.decay * (at - first)) >= self.tau


@dataclass(frozen=True)
class Stability(Adaptive):
    """Confidence of `tau`, and KL(p now || p before) below `epsilon` nats in each of the last `span` steps (KLASS).

    A position that was not forwarded as a mask in the step before starts anew.
    """

    tau: float
    epsilon: float
    span: int

    @property
    def compares(self) -> bool:
        return True

    def open(self) -> RuleState:
        return StabilityState(self)


class StabilityState(Adaptive):
    def __init__(self, rule: Stability):
        self._rule = rule
        self._before: tuple[NDArray[np.int32], mx.array, mx.array] | None = None  # positions, probs, steady steps

    def passes(self, candidates: Candidates) -> mx.array:
        if candidates.probs is None:
            raise TypeError("stability compares distributions: Candidates.probs is missing")
        steady = self._steady(candidates, candidates.probs)
        self._before = (candidates.positions, candidates.probs, steady)
        return (candidates.confidence >= self._rule.tau) & (steady >= self._rule.span)

    def _steady(self, candidates: Candidates, now: mx.array) -> mx.array:
        """For how many steps each candidate's distribution has held still, int `[B, R]`."""
        if self._before is None:
            return mx.zeros(candidates.scores.shape, dtype=mx.int32)
        positions, probs, steady = self._before
        place = np.full((len(positions), candidates.length), -1, dtype=np.int32)
        np.put_along_axis(place, positions, np.arange(positions.shape[1], dtype=np.int32)[None, :], axis=1)
        seen = np.take_along_axis(place, candidates.positions, axis=1)  # [B, R], -1 where not
        at = mx.array(np.maximum(seen, 0))
        before = mx.take_along_axis(probs, at[..., None], axis=1)
        divergence = (now * (mx.log(now + 1e-10) - mx.log(before + 1e-10))).sum(axis=-1)
        still = mx.array(seen >= 0) & (divergence < self._rule.epsilon)
        return mx.where(still, mx.take_along_axis(steady, at, axis=1) + 1, 0)
