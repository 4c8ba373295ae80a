"""In what order a canvas was filled, in numbers: NumPy only.

Autoregressiveness@k as DiffuCoder has it (arXiv 2506.20639, section 4). Tokens are taken one after
another; those of one step in the order in which a decoder of one token a step would take them, the
surest first and equals from the left. What is known from the start counts as written before, from left
to right: so a decoder that goes from left to right has 1 at every k. A token that was taken back and
committed again counts each time.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Commits(Protocol):
    """What is asked of a step; `trace.Step` has it."""

    @property
    def committed(self) -> NDArray[np.int32]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def remasked(self) -> NDArray[np.int32]: ...


class Part(NamedTuple):
    """What a step did to a part of the canvas."""

    committed: NDArray[np.int32]
    scores: NDArray[np.float32]
    remasked: NDArray[np.int32]


def within(steps: Iterable[Commits], places: NDArray[np.bool_]) -> Iterator[Part]:
    """What the steps did at some of the positions, bool `[L]`: behind a text's end there is only padding."""
    for step in steps:
        inside = places[step.committed]
        yield Part(step.committed[inside], step.scores[inside], step.remasked[places[step.remasked]])


def in_order(step: Commits) -> list[int]:
    """The positions that a step committed, the surest first."""
    return step.committed[np.argsort(-step.scores, kind="stable")].tolist()


def local_autoregressiveness(steps: Iterable[Commits], masked: NDArray[np.bool_], k: int) -> float | None:
    """The share of tokens that extend a run of `k` consecutive positions: next-token prediction.

    Args:
        masked: the canvas before the first step, bool `[L]`.
        k: how many tokens, each to the right of the one before, must have come last; 1 asks only
            that the token stands behind the last one.

    Returns:
        None where nothing was committed.
    """
    rank = masked.cumsum()  # what stands between two holes comes between no two tokens
    last, length = 0, np.inf
    extended = count = 0
    for step in steps:
        for place in rank[in_order(step)].tolist():
            follows = place == last + 1
            extended += follows and length >= k
            length = length + 1 if follows else 1
            last = place
            count += 1
    return extended / count if count else None


def global_autoregressiveness(steps: Iterable[Commits], masked: NDArray[np.bool_], k: int) -> float | None:
    """The share of tokens that are committed at one of the `k` leftmost masks: filling from the left.

    Args, Returns: as `local_autoregressiveness`.
    """
    masked = masked.copy()
    leftmost = count = 0
    for step in steps:
        for position in in_order(step):
            leftmost += int(masked[:position].sum()) < k
            masked[position] = False
            count += 1
        masked[step.remasked] = True
    return leftmost / count if count else None


def committed_in(steps: Iterable[Commits], length: int) -> NDArray[np.int32]:
    """Of each position `[L]`, which step (counted from 0) wrote the token that stayed; -1 where none did."""
    when = np.full(length, -1, dtype=np.int32)
    for number, step in enumerate(steps):
        when[step.committed] = number
        when[step.remasked] = -1
    return when


def order_agreement(one: NDArray[np.int32], other: NDArray[np.int32]) -> float | None:
    """Of all pairs of positions, the share that two runs committed in the same order.

    Chance is one half; Kendall's tau is twice this less 1. Pairs that either run committed in one step
    are left out, and positions that either left alone.

    Args:
        one, other: as `committed_in` gives them, of the same positions.

    Returns:
        None where there is no such pair.
    """
    both = (one >= 0) & (other >= 0)
    same = pairs = 0
    for place, (first, second) in enumerate(rows := np.stack([one[both], other[both]], axis=1)):
        signs = np.sign(rows[place + 1 :, 0] - first) * np.sign(rows[place + 1 :, 1] - second)
        same += int((signs > 0).sum())
        pairs += int((signs != 0).sum())
    return same / pairs if pairs else None


def distances(steps: Iterable[Commits], masked: NDArray[np.bool_]) -> Iterator[tuple[int, int, float]]:
    """Of each committed token its step, how far behind the text that stood before its hole, and its score."""
    places = np.arange(len(masked))
    distance = places - np.maximum.accumulate(np.where(masked, 0, places + 1))
    for number, step in enumerate(steps):
        yield from ((number, *one) for one in zip(distance[step.committed].tolist(), step.scores.tolist(), strict=True))
