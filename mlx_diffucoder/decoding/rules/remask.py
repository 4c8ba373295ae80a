"""Commit rules that remask: a committed token may become a mask again."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .adaptive import Adaptive
from .base import Candidates, RuleState


@dataclass(frozen=True)
class Backtrack(Adaptive):
    """Commit at a low threshold; remask a token whose probability has fallen since, now that more is known around it.

    A token committed with probability c is remasked when it has less than `fall` * c, in any later step whose
    window shows it. No position is remasked more than `limit` times. So each is committed at most `limit` + 1
    times, and as every step commits a token, there are at most `limit` + 1 steps for each mask.

    Related: Saber (arXiv 2510.18165) remasks a fixed share of the least probable tokens; WINO (arXiv 2507.18578)
    remasks those below a fixed bound.
    """

    tau: float
    fall: float
    limit: int

    @property
    def max_commits(self) -> int:
        return self.limit + 1

    def open(self) -> RuleState:
        return BacktrackState(self)


class BacktrackState(Adaptive):
    """`Backtrack` at work: each position's probability when it was committed, and how often it was remasked."""

    def __init__(self, rule: Backtrack):
        self._rule = rule
        self._at_commit = self._remasked = mx.zeros((0, 0))  # [B, L] from the first step on: probability, count

    def passes(self, candidates: Candidates) -> mx.array:
        return candidates.confidence >= self._rule.tau

    def recheck(self, committed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return committed

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        commit = super().commit(candidates, quota, key)
        positions = mx.array(candidates.positions)
        if not self._at_commit.size:
            self._at_commit = self._remasked = mx.zeros((len(quota), candidates.length))
        before = mx.take_along_axis(self._at_commit, positions, axis=1)
        now = mx.where(commit, candidates.confidence, before)
        self._at_commit = mx.put_along_axis(self._at_commit, positions, now, axis=1)
        return commit

    def remask(self, candidates: Candidates) -> mx.array:
        positions = mx.array(candidates.positions)
        count = mx.take_along_axis(self._remasked, positions, axis=1)
        has_fallen = candidates.current < self._rule.fall * mx.take_along_axis(self._at_commit, positions, axis=1)
        remask = candidates.recheck & has_fallen & (count < self._rule.limit)
        self._remasked = mx.put_along_axis(self._remasked, positions, count + remask, axis=1)
        return remask
