"""The order in which a canvas was filled, in numbers. NumPy only.

Autoregressiveness@k as in DiffuCoder (arXiv 2506.20639, section 4). Tokens count one after another. Those of one step
count in the order of their scores, as a decoder of one token a step would commit them; equal scores from the left. The
known text counts as written before, from left to right: so a decoder that goes from left to right has 1 at every k. A
token that was remasked and committed again counts each time.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Commits(Protocol):
    """A step, as far as the measures need it: a `Step` or a `Record`."""

    @property
    def committed(self) -> NDArray[np.int32]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def remasked(self) -> NDArray[np.int32]: ...


class Part(NamedTuple):
    """The changes of a step in a part of the canvas: positions int32 `[n]`, scores float32 `[n]`, positions int32 `[m]`."""

    committed: NDArray[np.int32]
    scores: NDArray[np.float32]
    remasked: NDArray[np.int32]


def within(steps: Iterable[Commits], selected: NDArray[np.bool_]) -> Iterator[Part]:
    """The changes of steps at the selected positions, bool `[L]`."""
    for step in steps:
        inside = selected[step.committed]
        yield Part(step.committed[inside], step.scores[inside], step.remasked[selected[step.remasked]])


def in_order(step: Commits) -> list[int]:
    """The positions that a step committed, the highest score first."""
    return step.committed[np.argsort(-step.scores, kind="stable")].tolist()


def local_autoregressiveness(steps: Iterable[Commits], masked: NDArray[np.bool_], k: int) -> float | None:
    """The share of tokens that extend a run of `k` consecutive positions: next-token prediction.

    Args:
        masked: the canvas before the first step, bool `[L]`.
        k: the length of the run. With 1 a token only has to follow the last one.

    Returns:
        None if nothing was committed.
    """
    rank = masked.cumsum()  # the text between two holes does not break a run
    last, length = 0, np.inf
    extended = count = 0
    for step in steps:
        for position in rank[in_order(step)].tolist():
            follows = position == last + 1
            extended += follows and length >= k
            length = length + 1 if follows else 1
            last = position
            count += 1
    return extended / count if count else None


def global_autoregressiveness(steps: Iterable[Commits], masked: NDArray[np.bool_], k: int) -> float | None:
    """The share of tokens that are committed at one of the `k` leftmost masks.

    Args, Returns: as `local_autoregressiveness`.
    """
    masked = masked.copy()
    leftmost = count = 0
    for step in steps:
        for position in in_order(step):
            leftmost += int(np.count_nonzero(masked[:position])) < k
            masked[position] = False
            count += 1
        masked[step.remasked] = True
    return leftmost / count if count else None


def committed_in(steps: Iterable[Commits], length: int) -> NDArray[np.int32]:
    """For each position the step that wrote its final token, counted from 0, int32 `[L]`; -1 for no step."""
    when = np.full(length, -1, dtype=np.int32)
    for number, step in enumerate(steps):
        when[step.committed] = number
        when[step.remasked] = -1
    return when
