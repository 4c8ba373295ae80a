"""The schedule of block-causal models: so many steps for each block."""

from dataclasses import dataclass
from typing import Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...choices import RULES, block_length_of, parse_choice
from ...config import GenerationConfig
from .base import Candidates, CommitRule, RuleState, largest


def block_shares(masks: int, steps: int) -> list[int]:
    """How many of a block's masks each of its steps commits: equal shares, and what is left over first."""
    return [masks // steps + (step < masks % steps) for step in range(steps)]


@dataclass(frozen=True)
class BlockSchedule(CommitRule):
    """In each step of a block its share of the block's masks; with `tau` also every token that is at least so probable.

    The best scores are committed. Source: `generate_block` of Stable-DiffCoder; SDAR (arXiv 2510.06303) has the threshold
    on top of the shares as here, Stable-DiffCoder on top of one token a step.

    Attributes:
        block_steps: the steps of a block, at most.
        tau: the smallest probability to commit beyond the share; None for none.
    """

    block_steps: int
    tau: float | None = None
    steps = None

    @classmethod
    def of(cls, config: GenerationConfig) -> Self:
        """The rule schedule or threshold of `config` on its window block-causal: the blocks share the steps."""
        length = block_length_of(config.window)
        tau = parse_choice(config.rule, RULES, "rule")[1].get("tau")
        return cls(config.steps // -(-config.max_tokens // length) if config.steps else length, tau)

    def open(self) -> RuleState:
        return BlockScheduleState(self)


class BlockScheduleState(RuleState):
    """`BlockSchedule` at work: each row's current block, and how far it is in its steps."""

    def __init__(self, rule: BlockSchedule):
        self._rule = rule
        self._blocks: list[tuple[int, list[int]]] = []  # the last mask of the block, and the shares that are left

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return masked

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        masked = np.array(candidates.masked)
        before = self._blocks or [(-1, [])] * len(masked)
        masks = [at[here] for at, here in zip(candidates.positions, masked, strict=True)]
        # A new list: the step may be computed again from the state before it.
        self._blocks = [self._after(*block, own) for block, own in zip(before, masks, strict=True)]
        share = np.array([shares[0] if shares else 0 for _, shares in self._blocks])
        commit = largest(candidates.scores, share)
        if self._rule.tau is not None:
            commit = commit | candidates.masked & (candidates.confidence >= self._rule.tau)
        return commit

    def _after(self, end: int, shares: list[int], masks: NDArray[np.int32]) -> tuple[int, list[int]]:
        """The block of the masks at positions `masks`, and its shares from this step on."""
        if len(masks) and masks.min() > end:
            return int(masks.max()), block_shares(len(masks), self._rule.block_steps)
        return end, shares[1:]
