"""The two orders to write an answer in, from left to right and by confidence, and how two runs differ."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from ..choices import DefaultWindow
from ..config import EPS, PRESETS, GenerationConfig
from ..statistics import confidence_interval
from .run import Result

ORDERS = ("left-to-right", "confidence")
"""The names of the two runs."""
CONFIDENCE: Mapping[str, Any] = {"rule": "schedule", "window": DefaultWindow("sliding:width=24,suffix=4")}
"""The most certain mask first: one token a step, of the 24 masks from the first one on."""


def left_to_right(config: GenerationConfig, shift: int) -> GenerationConfig:
    """The configuration that writes the most probable token at the first mask, again and again.

    On the window `tree` several of these tokens are verified in one forward. A family without a shift cannot use it, and a
    block-causal one keeps its window.

    Args:
        config: everything but the order.
        shift: the model's.
    """
    window = PRESETS["balanced"]["window"] if shift == 1 else "sliding:width=1,suffix=28"
    if config.window.startswith("block-causal") or (shift == 1 and config.window.startswith("tree")):
        window = config.window
    alg = "entropy" if config.alg == "origin" else config.alg
    return replace(config, rule="leftmost", window=window, steps=None, alg=alg, alg_temp=0.0, eps=EPS, reference=False)


def in_both_orders(config: GenerationConfig, shift: int) -> dict[str, GenerationConfig]:
    """The configurations of `ORDERS`: `left_to_right`, and the given one."""
    return dict(zip(ORDERS, (left_to_right(config, shift), config), strict=True))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The answers that runs in the two orders both have, counted by which of them passed.

    Attributes:
        both, only_left_to_right, only_confidence, neither: numbers of answers.
        points: the share that passed from left to right minus that by confidence, the mean over tasks; None without an answer.
        interval: its 95 % bootstrap interval over tasks.
    """

    both: int
    only_left_to_right: int
    only_confidence: int
    neither: int
    points: float | None
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, left_to_right: Iterable[Result], confidence: Iterable[Result]) -> Self:
        """Compare the answers of the same task and sample."""
        others = {(result.task_id, result.sample): result.passed for result in confidence}
        pairs: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
        for result in left_to_right:
            if (key := (result.task_id, result.sample)) in others:
                pairs[result.task_id].append((result.passed, others[key]))
        every = [pair for task in pairs.values() for pair in task]
        gains = [sum(one - other for one, other in task) / len(task) for task in pairs.values()]
        return cls(
            both=every.count((True, True)),
            only_left_to_right=every.count((True, False)),
            only_confidence=every.count((False, True)),
            neither=every.count((False, False)),
            points=sum(gains) / len(gains) if gains else None,
            interval=confidence_interval(gains) if gains else None,
        )

    def lines(self) -> list[str]:
        """The counts for people."""
        lines = [
            f"passed: {self.both} in both orders, {self.neither} in neither",
            f"passed: {self.only_left_to_right} only from left to right, {self.only_confidence} only by confidence",
        ]
        if self.points is not None and self.interval is not None:
            low, high = self.interval
            ends = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
            lines.append(f"left to right gains {100 * self.points:+.1f} points of pass@1 ({ends})")
        return lines
