"""The numbers of a run: accuracy and cost."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..decoding.result import TILE, Stats
from ..statistics import confidence_interval, pass_at_k
from .execute import FAILURES, PASSED
from .run import Result


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of a run, or of the finished part of one.

    Attributes:
        pass_at: k -> pass@k, the mean over tasks with at least k answers; None without such tasks.
        interval: the 95 % bootstrap interval of pass@1 over tasks.
        tasks: number of tasks with an answer.
        answers, passed: number of answers, and of those that passed.
        failures: kind of failure -> number of answers.
        unresolved_masks: total over all answers.
        stats: sums over all answers, so its rates are ratios of sums; peak memory is the largest.
    """

    pass_at: dict[int, float | None]
    interval: tuple[float, float] | None
    tasks: int
    answers: int
    passed: int
    failures: dict[str, int]
    unresolved_masks: int
    stats: Stats

    @classmethod
    def of(cls, results: Sequence[Result], ks: Collection[int] = (), tile: int = TILE) -> "Summary":
        """The summary of results, with pass@1 and pass@k for each of `ks`."""
        answered = Counter(result.task_id for result in results)
        right = Counter(result.task_id for result in results if result.passed)
        scores = {
            k: [pass_at_k(count, right[task], k) for task, count in answered.items() if count >= k] for k in sorted({1, *ks})
        }
        kinds = Counter(result.kind for result in results)
        return cls(
            pass_at={k: sum(each) / len(each) if each else None for k, each in scores.items()},
            interval=confidence_interval(scores[1]) if scores[1] else None,
            tasks=len(answered),
            answers=len(results),
            passed=kinds[PASSED],
            failures={kind: kinds[kind] for kind in FAILURES},
            unresolved_masks=sum(result.unresolved_masks for result in results),
            stats=Stats(
                nfe=sum(result.nfe for result in results),
                positions=sum(result.positions for result in results),
                useful_tokens=sum(result.useful_tokens for result in results),
                seconds=sum(result.seconds for result in results),
                peak_memory_bytes=max((result.peak_memory_bytes for result in results), default=0),
                rows=Counter(rows for result in results for rows in result.rows),
                tile=tile,
            ),
        )

    @property
    def nfe(self) -> float:
        """Mean forwards per answer."""
        return self.stats.nfe / self.answers if self.answers else 0.0

    def accuracy(self) -> dict[str, Any]:
        """What is known of answers made elsewhere, JSON-ready."""
        return {
            **{f"pass@{k}": value for k, value in self.pass_at.items()},
            "confidence_interval": list(self.interval) if self.interval else None,
            "tasks": self.tasks,
            "answers": self.answers,
            "passed": self.passed,
            "failures": self.failures,
        }

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict. `nfe` is the mean per answer; `positions` and `useful_tokens` are totals."""
        return {**self.accuracy(), "unresolved_masks": self.unresolved_masks, **self.stats.to_dict(), "nfe": self.nfe}

    def lines(self, *, costs: bool) -> dict[str, str]:
        """The numbers for people, by their label; those of the answers' generation with `costs`."""
        lines = {f"pass@{k}": "-" if value is None else f"{100 * value:.1f} %" for k, value in self.pass_at.items()}
        if self.interval:
            low, high = self.interval
            lines["pass@1"] += f"  (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        lines |= {
            "tasks": f"{self.tasks}",
            "answers passed": f"{self.passed} of {self.answers}",
            "failures": ", ".join(f"{kind} {count}" for kind, count in self.failures.items() if count) or "none",
        }
        if costs:
            lines |= {
                "forwards per answer (NFE)": f"{self.nfe:.2f}",
                **self.stats.lines(),
                "unresolved masks": f"{self.unresolved_masks}",
            }
        return lines
