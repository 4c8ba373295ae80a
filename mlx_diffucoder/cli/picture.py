"""Quality against size, as a picture."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import write_output

if TYPE_CHECKING:
    from .compare import Row

KINDS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> Any:
    """matplotlib's pyplot, where it can draw such a file there; asked before minutes are spent.

    Raises:
        ConfigError: the folder is not there or the kind of file is none of `KINDS`.
        ExecutionError: matplotlib is not installed.
    """
    from ..plotting import plotter

    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"--picture {path}: the name must end in .png, .svg or .pdf")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--picture {path}: cannot be written; name a file in a folder that is there")
    return plotter()


def draw_picture(pyplot: Any, base: "Row", rows: "list[Row]", path: Path) -> None:
    """KL to the base against bytes on disk and, where it was measured, pass@1 beside it."""
    passed = [row.passed for row in (base, *rows) if row.passed is not None]
    figure, axes = pyplot.subplots(
        1, 2 if passed else 1, figsize=(13 if passed else 8.5, 4.8), layout="constrained", squeeze=False
    )
    colours = pyplot.get_cmap("tab10" if len(rows) <= 10 else "tab20")
    unit, name = (1e9, "GB") if base.bytes_on_disk >= 1e9 else (1e6, "MB")
    left = axes[0][0]
    for place, row in enumerate(rows):
        mean = row.comparison.overall
        low, high = mean.kl_interval
        spread = [[max(0.0, mean.kl - low)], [max(0.0, high - mean.kl)]]
        label = f"{row.label} ({row.bits_per_weight:.2f} bits a weight)"
        left.errorbar(row.bytes_on_disk / unit, mean.kl, yerr=spread, fmt="o", color=colours(place), label=label, capsize=3)
        if passed:
            axes[0][1].plot(row.bytes_on_disk / unit, 100 * passed[place + 1], "o", color=colours(place))
    every = [row.comparison.overall.kl for row in rows]
    if min(every) > 0:
        left.set_yscale("log")
    else:  # a copy of the base stands at 0
        left.set_yscale("symlog", linthresh=min((kl for kl in every if kl > 0), default=1.0))
    left.set_ylabel("KL to the base, nats a masked position")
    if passed:
        axes[0][1].axhline(100 * passed[0], color="grey", linestyle="--", label="the base")
        axes[0][1].set_ylabel("pass@1, %")
        axes[0][1].legend()
    for one in axes[0]:
        one.set_xlabel(f"size on disk, {name} (the base: {base.bytes_on_disk / unit:.3g})")
        one.set_xlim(left=0)
        one.grid(alpha=0.3)
    figure.suptitle(f"against {base.label}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    write_output(path, lambda file: figure.savefig(file, dpi=150), flag="--picture")
    pyplot.close(figure)
