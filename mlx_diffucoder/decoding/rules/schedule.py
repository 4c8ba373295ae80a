"""The reference decoder's commit rule: a share of the masks in each step, by a schedule of timesteps."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...config import GenerationConfig
from .base import Candidates, CommitRule, WithoutMemory, largest


@dataclass(frozen=True)
class Schedule(WithoutMemory):
    """In the step from timestep t to s, int(mean |M| * (1 - s/t)) tokens of every row; in the last step all.

    |M| is the number of masks in a row; the mean is over the rows of the batch. The best scores are committed.
    Source: `diffusion_generate` (Dream, arXiv 2508.15487; DiffuCoder, arXiv 2506.20639).

    Attributes:
        steps: the number of steps that the timesteps are spread over.
        eps: the last timestep; the first is 1.
        alg_temp: above 0, positions are drawn without replacement from softmax(score / alg_temp).
    """

    steps: int
    eps: float
    alg_temp: float = 0.0

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        # A step past the last comes when a window has not shown all masks by then.
        return masked if index >= self.steps - 1 else self.share_of_mean(index, masked)

    def share_of_mean(self, index: int, masked: NDArray[np.int64]) -> NDArray[np.int64]:
        """The mean's share in float32, as the reference computes it, but no more than a row has; int64 `[B]`."""
        mean = np.float32(masked.sum()) / np.float32(len(masked))
        return np.minimum(masked, int(mean * commit_share(index, self.steps, self.eps)))

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        scores = candidates.scores
        if self.alg_temp > 0:
            # Gumbel top-n: the n largest of score/T + Gumbel noise are n draws without
            # replacement from the softmax (arXiv 1903.06059).
            weights = mx.maximum((scores - scores.max(axis=1, keepdims=True)) / self.alg_temp, -1e30)
            noisy = weights + mx.random.gumbel(shape=scores.shape, key=key)
            scores = mx.where(candidates.masked, noisy, -mx.inf)
        return largest(scores, quota)


@dataclass(frozen=True)
class RandomSchedule(Schedule):
    """The reference's `origin`: each masked position is committed with probability 1 - s/t.

    The number of commits is drawn first, from the binomial distribution this implies. With the random scores
    of `origin` the outcome has the same distribution, and a step that draws 0 costs no forward.
    """

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.binomial(masked, float(commit_share(min(index, self.steps - 1), self.steps, self.eps)))


def schedule_for(config: GenerationConfig) -> CommitRule:
    """The schedule of a configuration: `steps` steps, or one for each token."""
    steps = config.steps or config.max_tokens
    return RandomSchedule(steps, config.eps) if config.alg == "origin" else Schedule(steps, config.eps, config.alg_temp)


def timestep(index: int, steps: int, eps: float) -> np.float32:
    """Element `index` of torch's `linspace(1, eps, steps + 1)`, bit for bit.

    torch computes from both ends towards the middle, each value with one rounding (a fused
    multiply-add); float64 for the intermediate result does the same.
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
