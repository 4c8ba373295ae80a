"""Rules that remask: a commit may be taken back."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .adaptive import Adaptive
from .base import Candidates, RuleState


@dataclass(frozen=True)
class Backtrack(Adaptive):
    """Commit boldly; mask again what has lost probability since, now that more is known around it.

    A token committed with probability c that now has less than `fall` * c is taken back, in the
    step after its commit and in any later one that shows it. No position is taken back more than
    `limit` times; so each is committed at most `limit` + 1 times, and as each step commits a token, there
    are at most `limit` + 1 steps for each mask.

    Saber (arXiv 2510.18165) takes back a fixed share of the lowest; WINO (2507.18578) those below a
    fixed bound.
    """

    tau: float
    fall: float
    limit: int

    @property
    def rounds(self) -> int:
        return self.limit + 1

    def open(self) -> RuleState:
        return BacktrackState(self)


class BacktrackState(Adaptive):
    def __init__(self, rule: Backtrack):
        self._rule = rule
        self._committed_at: mx.array | None = None  # [B, L], the probability at commit
        self._taken: mx.array | None = None  # [B, L], how often taken back

    def passes(self, candidates: Candidates) -> mx.array:
        return candidates.confidence >= self._rule.tau

    def again(self, committed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return committed

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        commit = super().commit(candidates, quota, key)
        at = mx.array(candidates.positions)
        if self._committed_at is None:
            self._committed_at = mx.zeros((len(quota), candidates.length))
        before = mx.take_along_axis(self._committed_at, at, axis=1)
        now = mx.where(commit, candidates.confidence, before)
        self._committed_at = mx.put_along_axis(self._committed_at, at, now, axis=1)
        return commit

    def take_back(self, candidates: Candidates) -> mx.array:
        if self._committed_at is None:
            return mx.zeros_like(candidates.again)
        at = mx.array(candidates.positions)
        taken = mx.zeros_like(self._committed_at) if self._taken is None else self._taken
        count = mx.take_along_axis(taken, at, axis=1)
        fallen = candidates.held < self._rule.fall * mx.take_along_axis(self._committed_at, at, axis=1)
        back = candidates.again & fallen & (count < self._rule.limit)
        self._taken = mx.put_along_axis(taken, at, count + back, axis=1)
        return back
