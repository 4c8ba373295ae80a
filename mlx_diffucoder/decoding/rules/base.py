"""What a commit rule is: which masked positions are committed now.

A rule is a small frozen value: it can be printed, compared and kept in a log. The loop asks its state
twice a step: how many tokens (before the forward, which a quota of 0 saves), and which ones.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


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


class CommitRule(Protocol):
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

    def open(self) -> "RuleState":
        """Start on a canvas; a rule that remembers nothing returns itself."""
        ...


class RuleState(Protocol):
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


class WithoutRemasking:
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
