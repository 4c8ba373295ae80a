"""Which masked positions are committed now.

A policy is a small frozen value: it can be printed, compared and kept in a log. The loop asks it
twice a step: how many tokens (before the forward, which a quota of 0 saves), and which ones.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .config import GenerationConfig
from .ties import torch_topk


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a policy decides on.

    MLX is lazy: what a policy does not look at is never computed.

    Attributes:
        scores: float32 `[B, R]`, larger is surer; minus infinity where there is no candidate.
        confidence: float32 `[B, R]`, the probability of the chosen token.
        entropy: float32 `[B, R]`, nats.
        valid: bool `[B, R]`, where there is a candidate.
        positions: int32 `[B, R]`, where on the canvas the candidates stand.
        length: positions on the canvas.
        again: bool `[B, R]`, where there is a committed token that is looked at again.
        held: float32 `[B, R]`, the probability of the token that stands there.
        probs: float32 `[B, R, V]`, what the token was chosen from; only for a policy that `compares`.
    """

    scores: mx.array
    confidence: mx.array
    entropy: mx.array
    valid: mx.array
    positions: NDArray[np.int32]
    length: int
    again: mx.array
    held: mx.array
    probs: mx.array | None = None


class Policy(Protocol):
    """What the denoising loop needs to know of a commit rule."""

    @property
    def steps(self) -> int | None:
        """The steps of its schedule; None where the rule has none."""
        ...

    @property
    def rounds(self) -> int:
        """How often it commits one position at most: once, unless it takes commits back."""
        ...

    @property
    def compares(self) -> bool:
        """Whether it needs the distributions themselves, `Candidates.probs`."""
        ...

    def open(self) -> "Judge":
        """Start on a canvas; a rule that remembers nothing returns itself."""
        ...


class Judge(Protocol):
    """A policy at work on one canvas."""

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """How many tokens to commit in each row at step `index`, of `masked` `[B]` still masked."""
        ...

    def again(self, committed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of the positions committed so far, bool `[B, L]`, those it wants to look at again."""
        ...

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        """Which candidates to commit, bool `[B, R]`, at most `quota` `[B]` of each row."""
        ...

    def take_back(self, candidates: Candidates) -> mx.array:
        """Which of those looked at `again` to mask again, bool `[B, R]`; asked once after `commit`."""
        ...


class Final:
    """What rules have in common that never take a commit back."""

    @property
    def rounds(self) -> int:
        return 1

    @property
    def compares(self) -> bool:
        return False

    def again(self, committed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.zeros_like(committed)

    def take_back(self, candidates: Candidates) -> mx.array:
        return mx.zeros_like(candidates.again)


@dataclass(frozen=True)
class Schedule(Final):
    """The reference's rule: a share of the masks at each step, the best scores first.

    Attributes:
        steps: how many steps the timesteps are spread over.
        eps: where the timesteps end.
        alg_temp: above 0, positions are drawn without replacement from softmax(score / alg_temp).
    """

    steps: int
    eps: float
    alg_temp: float = 0.0

    def open(self) -> Judge:
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
class RandomSchedule(Final):
    """The reference's `origin`: each masked position is committed with probability 1 - s/t.

    How many are is drawn first, from the binomial that this makes: with the random scores of
    `origin` on top the outcome has the same distribution, and a step that draws none costs no
    forward.
    """

    steps: int
    eps: float

    def open(self) -> Judge:
        return self

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.binomial(masked, float(commit_share(min(index, self.steps - 1), self.steps, self.eps)))

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        return largest(candidates.scores, quota)


def schedule_for(config: GenerationConfig) -> Policy:
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


def largest(scores: mx.array, quota: NDArray[np.int64]) -> mx.array:
    """The `quota` `[B]` largest finite of `scores` `[B, R]`, bool; ties go to the left.

    By counting what stands before each entry instead of sorting: no sort promises the order of ties.
    """
    rank = precedes(scores).sum(axis=-1)  # [B, R]
    return (rank < mx.array(quota)[:, None]) & (scores > -mx.inf)


def precedes(scores: mx.array) -> mx.array:
    """Bool `[B, R, R]`: at `[b, i, j]`, whether j stands before i when scores fall and ties go left to right."""
    places = mx.arange(scores.shape[1])
    other, own = scores[:, None, :], scores[:, :, None]
    return (other > own) | (other == own) & (places[None, :] < places[:, None])
