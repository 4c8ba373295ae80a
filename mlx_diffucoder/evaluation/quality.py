"""The quality of checkpoints against their size: a row of numbers for each, and a picture of all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import GenerationConfig
from ..errors import ConfigError
from ..plotting import check_plot, plotter, save_plot
from ..tasks import Task
from .compare import Checkpoint, Comparison
from .execute import Limits
from .run import Result, evaluate
from .summary import Summary

PICTURES = (".png", ".svg", ".pdf")


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
    answer: Callable[[Checkpoint], Iterator[Result]] | None,
    advance: Callable[[float], None],
) -> list[Row]:
    """A row for each checkpoint, the base first.

    Args:
        comparisons: of all checkpoints but the first.
        answer: gives the results of a checkpoint's answers to tasks; None without tasks.
        advance: called with 1 after each answer.
    """
    names = [one.name for one in checkpoints]
    short = [Path(name).name or name for name in names]
    labels = short if len(set(short)) == len(short) else names
    passed = (_pass_at_1(answer(one), advance) if answer else (None, None) for one in checkpoints)
    rows = zip(checkpoints, labels, [None, *comparisons], passed, strict=True)
    return [Row(one, label, comparison, *scores) for one, label, comparison, scores in rows]


def _pass_at_1(coming: Iterator[Result], advance: Callable[[float], None]) -> tuple[float | None, tuple[float, float] | None]:
    results = []
    for result in coming:
        results.append(result)
        advance(1)
    summary = Summary.of(results)
    return summary.pass_at[1], summary.interval


def answers_of(
    tasks: Sequence[Task], config: GenerationConfig, limits: Limits | None
) -> Callable[[Checkpoint], Iterator[Result]]:
    """The results of a checkpoint's answers to tasks, as `evaluate` gives them."""
    return lambda one: evaluate(one.open(), one.tokenizer, tasks, config, limits=limits)


def check_picture(path: Path) -> Any:
    """matplotlib's pyplot. Call it before the measurement, which takes minutes.

    Raises:
        ConfigError: the name ends in none of `PICTURES`.
        FileError: the picture cannot be written, or the file exists and is not a plot.
        ExecutionError: matplotlib is not installed.
    """
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"--picture {path}: the name must end in .png, .svg or .pdf", field="--picture")
    check_plot(path, flag="--picture")
    return plotter()


def draw_picture(pyplot: Any, rows: Sequence[Row], path: Path) -> None:
    """Draw the KL to the base against bytes on disk, and pass@1 next to it if it was measured.

    Args:
        pyplot: from `check_picture`.
        rows: the base first.

    Raises:
        FileError: the picture cannot be written.
    """
    base, *others = rows
    passed = [row.passed for row in rows if row.passed is not None]
    figure, axes = pyplot.subplots(
        1, 2 if passed else 1, figsize=(13 if passed else 8.5, 4.8), layout="constrained", squeeze=False
    )
    colours = pyplot.get_cmap("tab10" if len(others) <= 10 else "tab20")
    unit, name = (1e9, "GB") if base.checkpoint.bytes_on_disk >= 1e9 else (1e6, "MB")
    for number, row in enumerate(others):
        size = row.checkpoint.bytes_on_disk / unit
        _draw_kl(axes[0][0], row, size, colours(number))
        if row.passed is not None:
            axes[0][1].plot(size, 100 * row.passed, "o", color=colours(number))
    _scale(axes[0][0], [row.comparison.overall.kl for row in others if row.comparison])
    if base.passed is not None:
        axes[0][1].axhline(100 * base.passed, color="grey", linestyle="--", label="the base")
        axes[0][1].set_ylabel("pass@1, %")
        axes[0][1].legend()
    for one in axes[0]:
        one.set_xlabel(f"size on disk, {name} (the base: {base.checkpoint.bytes_on_disk / unit:.3g})")
        one.set_xlim(left=0)
        one.grid(alpha=0.3)
    figure.suptitle(f"against {base.label}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    save_plot(figure, path, flag="--picture")
    pyplot.close(figure)


def _draw_kl(axes: Any, row: Row, size: float, colour: Any) -> None:
    if row.comparison:
        mean = row.comparison.overall
        low, high = mean.kl_interval
        spread = [[max(0.0, mean.kl - low)], [max(0.0, high - mean.kl)]]
        label = f"{row.label} ({row.checkpoint.bits_per_weight:.2f} bits per weight)"
        axes.errorbar(size, mean.kl, yerr=spread, fmt="o", color=colour, label=label, capsize=3)


def _scale(axes: Any, every: Sequence[float]) -> None:
    if min(every) > 0:
        axes.set_yscale("log")
    else:  # an exact copy of the base is at 0
        axes.set_yscale("symlog", linthresh=min((kl for kl in every if kl > 0), default=1.0))
    axes.set_ylabel("KL to the base, nats per masked position")
