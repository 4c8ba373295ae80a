"""The quality of checkpoints against their size: a row of numbers for each, and a picture of all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import GenerationConfig
from ..pages import GREY, write_page
from ..tasks import Task
from .compare import Checkpoint, Comparison
from .execute import Limits
from .run import evaluate
from .summary import Summary


@dataclass(frozen=True)
class Row:
    """One checkpoint's numbers.

    Attributes:
        checkpoint: named as the user gave it.
        label: the last part of the name; the whole name when two end alike.
        comparison: its divergence from the base; None for the base.
        passed: pass@1, from 0 to 1, and its 95 % interval; None when no tasks were given.
    """

    checkpoint: Checkpoint
    label: str
    comparison: Comparison | None = None
    passed: float | None = None
    passed_interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        passed = {} if self.passed is None else {"pass@1": self.passed, "pass@1_interval": self.passed_interval}
        found = {} if self.comparison is None else self.comparison.to_dict()
        one = self.checkpoint
        return {"model": one.name, "bytes": one.bytes_on_disk, "bits_per_weight": one.bits_per_weight, **passed, **found}


def rows_of(
    checkpoints: Sequence[Checkpoint],
    comparisons: Sequence[Comparison],
    tasks: Sequence[Task],
    config: GenerationConfig,
    advance: Callable[[float], None],
    limits: Limits | None = None,
) -> list[Row]:
    """A row for each checkpoint, the base first. Each answers the tasks, if there are any.

    Args:
        comparisons: of all checkpoints but the first.
        advance: called with 1 after each answer.
        limits: of the programs.
    """
    names = [one.name for one in checkpoints]
    short = [Path(name).name or name for name in names]
    labels = short if len(set(short)) == len(short) else names
    passed = (_pass_at_1(one, tasks, config, advance, limits) if tasks else (None, None) for one in checkpoints)
    rows = zip(checkpoints, labels, [None, *comparisons], passed, strict=True)
    return [Row(one, label, comparison, *scores) for one, label, comparison, scores in rows]


def _pass_at_1(
    checkpoint: Checkpoint,
    tasks: Sequence[Task],
    config: GenerationConfig,
    advance: Callable[[float], None],
    limits: Limits | None,
) -> tuple[float | None, tuple[float, float] | None]:
    results = []
    for result in evaluate(checkpoint.open(), checkpoint.tokenizer, tasks, config, limits=limits):
        results.append(result)
        advance(1)
    summary = Summary.of(results)
    return summary.pass_at[1], summary.interval


def write_picture(rows: Sequence[Row], path: Path) -> None:
    """Write a page: the KL to the base against the size on disk, and pass@1 next to it if it was measured.

    Args:
        rows: the base first.

    Raises:
        FileError: the page cannot be written.
    """
    base, *others = rows
    unit, name = (1e9, "GB") if base.checkpoint.bytes_on_disk >= 1e9 else (1e6, "MB")
    size = {"label": f"size on disk, {name} (the base: {base.checkpoint.bytes_on_disk / unit:.3g})"}
    kls, passed = list[dict[str, Any]](), list[dict[str, Any]]()
    for row in others:
        at, label = row.checkpoint.bytes_on_disk / unit, f"{row.label} ({row.checkpoint.bits_per_weight:.2f} bits per weight)"
        if row.comparison:
            mean = row.comparison.overall
            kls.append({"name": label, "points": [[at, mean.kl, *mean.kl_interval]]})
        if row.passed is not None and row.passed_interval:
            passed.append({"name": label, "points": [[at, *(100 * one for one in (row.passed, *row.passed_interval))]]})
    above_0 = all(value > 0 for one in kls for value in one["points"][0])  # an exact copy of the base is at 0
    kl = {"label": "KL to the base, nats per masked position", **({"log": 10} if above_0 else {})}
    charts = [{"title": f"KL to {base.label}", "x": size, "y": kl, "series": kls}]
    if base.passed is not None:
        most = max(row.checkpoint.bytes_on_disk for row in rows) / unit
        line = [[at, 100 * base.passed] for at in (0, most)]
        passed.append({"name": "the base", "colour": GREY, "dashed": True, "points": line})
        charts.append({"title": "pass@1", "x": size, "y": {"label": "pass@1, %"}, "series": passed})
    write_page(path, f"diffucode compare: against {base.label}", {"notes": [], "charts": charts}, flag="--picture")
