"""The protocols of a commit rule, which decides what masked positions are committed in a step.

A rule is a small frozen value: you can print it, compare it and write it to a log. `open` gives its state for
one batch of canvases. In each step the decoder asks that state how many tokens to commit (`quota`; 0 saves the
forward), and then which candidates (`commit`). A committed token stays. Rules and their states are subclasses of the
protocols.

Shapes: B canvases in the batch, L positions on a canvas, R candidates a canvas, V ids in the vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy


@dataclass(frozen=True, eq=False)
class Candidates:
    """The measurements a commit rule decides on.

    MLX is lazy: a measurement that no rule reads is never computed.

    Attributes:
        scores: float32 `[B, R]`, larger is surer; minus infinity where `masked` is False.
        confidence: float32 `[B, R]`, the probability of the chosen token.
        entropy: float32 `[B, R]`, nats.
        masked: bool `[B, R]`, the positions that may be committed. The others only fill the rectangle.
        positions: int32 `[B, R]`, where the candidates are on the canvas; no position twice in a row.
        length: L.
        forced: int32 `[B, R]`, the group of each candidate. An adaptive rule commits the best of each group, even if it fails
            the rule's test; none of group 0. None for a single group.
    """

    scores: mx.array
    confidence: mx.array
    entropy: mx.array
    masked: mx.array
    positions: NDArray[np.int32]
    length: int
    forced: mx.array | None = None


class CommitRule(Protocol):
    """A commit rule and its parameters."""

    steps: int | None
    """The number of steps of its schedule; None for a rule that commits at least one token in every step."""

    def open(self) -> "RuleState":
        """Start on a batch of canvases."""
        ...


class RuleState(Protocol):
    """A commit rule at work on one batch of canvases."""

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """How many tokens to commit in each row.

        Args:
            index: the number of the step, from 0.
            masked: int64 `[B]`, the masks left in each row.
            rng: for a rule that draws.

        Returns:
            int64 `[B]`. Where all are 0 the fast loop skips the step.
        """
        ...

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        """Which candidates to commit, bool `[B, R]`; a subset of `candidates.masked`, at most `quota` `[B]` in each row."""
        ...


class WithoutMemory(CommitRule, RuleState, Protocol):
    """A rule that is its own state."""

    def open(self) -> RuleState:
        return self


def largest(scores: mx.array, quota: NDArray[np.int64]) -> mx.array:
    """Where the `quota` `[B]` largest finite `scores` `[B, R]` are, bool; of equal scores the leftmost.

    Counts the larger entries instead of sorting: no sort promises the order of equal entries.
    """
    rank = precedes(scores).sum(axis=-1)  # [B, R]
    return (rank < from_numpy(quota)[:, None]) & (scores > -mx.inf)


def precedes(scores: mx.array) -> mx.array:
    """Whether entry j comes before entry i in descending order of `scores` `[B, R]`, leftmost first among equals.

    Returns:
        bool `[B, R, R]`, indexed `[b, i, j]`.
    """
    index = mx.arange(scores.shape[1])
    other, own = scores[:, None, :], scores[:, :, None]
    return (other > own) | (other == own) & (index[None, :] < index[:, None])
