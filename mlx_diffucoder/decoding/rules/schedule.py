"""The reference's commit rule: a share of the masks at each step, by a schedule of timesteps."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...config import GenerationConfig
from ..torch_topk import torch_topk
from .base import Candidates, CommitRule, RuleState, WithoutRemasking, largest


@dataclass(frozen=True)
class Schedule(WithoutRemasking):
    """The reference's rule: a share of the masks at each step, the best scores first.

    Attributes:
        steps: how many steps the timesteps are spread over.
        eps: where the timesteps end.
        alg_temp: above 0, positions are drawn without replacement from softmax(score / alg_temp).
    """

    steps: int
    eps: float
    alg_temp: float = 0.0

    def open(self) -> RuleState:
        return self

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """int(mean |M| * (1 - s/t)) for every row, in float32 as the reference has it; all in the last step."""
        if index >= self.steps - 1:  # beyond it, where a window has not shown all masks in time
            return masked
        return self._of_the_mean(index, masked)

    def _of_the_mean(self, index: int, masked: NDArray[np.int64]) -> NDArray[np.int64]:
        mean = np.float32(masked.sum()) / np.float32(len(masked))
        return np.minimum(masked, int(mean * commit_share(index, self.steps, self.eps)))

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        scores = candidates.scores
        if self.alg_temp > 0:
            # Gumbel top-n: the n largest of score/T + Gumbel noise are n draws without
            # replacement from the softmax (arXiv 1903.06059).
            weights = mx.maximum((scores - scores.max(axis=1, keepdims=True)) / self.alg_temp, -1e30)
            noisy = weights + mx.random.gumbel(shape=scores.shape, key=key)
            scores = mx.where(candidates.valid, noisy, -mx.inf)
        return largest(scores, quota)


@dataclass(frozen=True)
class ReferenceSchedule(Schedule):
    """`Schedule`, but equal scores are taken in the order that the reference takes them (`ties`).

    In the last step too every row gets the mean, so that one with more masks keeps some. The
    choice is made on the host: this is the plain decoder that others are checked against.
    """

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return self._of_the_mean(index, masked)

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        if self.alg_temp > 0:  # drawn: there are no ties
            return super().commit(candidates, quota, key)
        scores = np.array(candidates.scores)
        commit = np.zeros(scores.shape, dtype=np.bool_)
        for row in range(len(scores)):
            canvas = np.full(candidates.length, -np.inf)
            canvas[candidates.positions[row]] = scores[row]
            commit[row] = np.isin(candidates.positions[row], torch_topk(canvas.tolist(), int(quota[row])))
        return mx.array(commit) & (candidates.scores > -mx.inf)


@dataclass(frozen=True)
class RandomSchedule(WithoutRemasking):
    """The reference's `origin`: each masked position is committed with probability 1 - s/t.

    How many are is drawn first, from the binomial that this makes: with the random scores of
    `origin` on top the outcome has the same distribution, and a step that draws none costs no
    forward.
    """

    steps: int
    eps: float

    def open(self) -> RuleState:
        return self

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.binomial(masked, float(commit_share(min(index, self.steps - 1), self.steps, self.eps)))

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        return largest(candidates.scores, quota)


def schedule_for(config: GenerationConfig) -> CommitRule:
    """The reference's schedule, with a configuration's steps."""
    steps = config.steps or config.max_tokens
    if config.alg == "origin":
        return RandomSchedule(steps, config.eps)
    schedule = ReferenceSchedule if config.reference else Schedule
    return schedule(steps, config.eps, config.alg_temp)


def timestep(index: int, steps: int, eps: float) -> np.float32:
    """The element `index` of torch's `linspace(1, eps, steps + 1)`, bit for bit.

    torch steps from both ends towards the middle, each value with one rounding (a fused
    multiply-add); float64 in between does the same.
    """
    end = np.float32(eps)
    step = float((end - np.float32(1)) / np.float32(steps))
    if index < (steps + 1) // 2:
        return np.float32(1 + step * index)
    return np.float32(float(end) - step * (steps - index))


def commit_share(index: int, steps: int, eps: float) -> np.float32:
    """1 - s/t for the step from timestep t to s; 1 in the last step."""
    if index == steps - 1:
        return np.float32(1)
    return np.float32(1) - timestep(index + 1, steps, eps) / timestep(index, steps, eps)
