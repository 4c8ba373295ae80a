"""Pictures of results files: the time of forwards, useful tokens/s, and where the time of a step goes."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.plotting import check_plot, plotter, save_plot

from .ceilings import Ceilings
from .compare import comparable_rows
from .decoders import AUTOREGRESSIVE
from .report import Report
from .roofline import Work, ideal_seconds
from .speed import LABELS

KINDS = (".png", ".svg")
COLOURS = {"forward": "#4269d0", "lm_head": "#efb118", "sampling": "#ff725c", "host": "#6cc5b0"}
GREYS = {AUTOREGRESSIVE: "#9a9a9a", "reference": "#c9c9c9"}


def draw(reports: list[Report], alike: list[Report], folder: Path) -> list[Path]:
    """Draw all three pictures into a folder, which is created, as PNG and SVG; return the files.

    Args:
        reports: all of them; their forwards are drawn, each with its own roofline.
        alike: those comparable with the first, the first included; only they are compared with each other.

    Raises:
        BenchError: the folder cannot be created or written.
        FileError: a file cannot be written, or exists and is not a plot.
        ExecutionError: matplotlib is not installed.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise BenchError(f"--pictures {folder}: cannot be created ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise BenchError(f"--pictures {folder}: cannot be written (permission denied); name another folder")
    pyplot = plotter()
    pictures = {"forwards": forwards(pyplot, reports), "speed": speeds(pyplot, alike), "step": steps(pyplot, alike)}
    files = {folder / (name + kind): figure for name, figure in pictures.items() for kind in KINDS}
    for path in files:
        check_plot(path, flag="--pictures")
    for path, figure in files.items():
        save_plot(figure, path, flag="--pictures", dpi=160)
        pyplot.close(figure)
    return list(files)


def forwards(pyplot: Any, reports: list[Report]) -> Any:
    """The time of a forward by its rows, log-log: each report's points with their spread, and its roofline."""
    figure, axes = pyplot.subplots(figsize=(9, 5.4), layout="constrained")
    colours = pyplot.get_cmap("tab10")
    widest = 1
    for place, report in enumerate(reports):
        rows, colour = report.content["forwards"], colours(place % 10)
        at = [row["rows"] for row in rows]
        took, low, high = ([1e3 * row["time"][key] for row in rows] for key in ("seconds", "low", "high"))
        spread = [np.subtract(took, low), np.subtract(high, took)]
        label = f"{_name(report, reports)}; {_what(report)}"
        axes.errorbar(at, took, yerr=spread, fmt="o-", color=colour, capsize=3, label=label)
        line = np.geomspace(1, max(at), 60)
        ideal = [1e3 * ideal_seconds(_ceilings(report), _work(report), width) for width in line]
        axes.plot(line, ideal, "--", color=colour, linewidth=1)
        widest = max(widest, *at)
    axes.plot([], [], "--", color="grey", linewidth=1, label="dashed: its roofline, max(weights / bandwidth, operations / rate)")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([2**power for power in range(widest.bit_length())], [f"{2**power}" for power in range(widest.bit_length())])
    axes.set_xlabel("rows of a forward")
    axes.set_ylabel("time of a forward, ms")
    axes.set_title("Forward time by rows")
    _quiet(axes)
    _legend_below(figure)
    return figure


def speeds(pyplot: Any, reports: list[Report]) -> Any:
    """Useful tokens/s of each decoder on each machine, with the cost in forwards and positions under its name."""
    rows = comparable_rows(reports)
    bars = sum(row is not None for _, own in rows for row in own)
    figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.5 * bars + 0.5 * len(reports)), layout="constrained")
    colours, place, ticks = pyplot.get_cmap("tab10"), 0.0, list[tuple[float, str]]()
    for number, report in enumerate(reports):
        axes.text(0, place - 0.62, _name(report, reports), va="bottom", fontsize=9, fontweight="bold")
        for name, row in ((name, own[number]) for name, own in rows):
            if row is None:
                continue
            speed = row["useful_tokens_per_second"]
            colour = GREYS.get(row["kind"]) or colours(number % 10)
            spread = [[speed["median"] - speed["low"]], [speed["high"] - speed["median"]]]
            axes.barh(place, speed["median"], xerr=spread, color=colour, capsize=2, error_kw={"alpha": 0.5}, height=0.7)
            axes.text(speed["high"], place, f"  {_speed(row)}", va="center", fontsize=9)
            ticks.append((place, f"{name}\n{_cost(row)}"))
            place += 1
        place += 1
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.set_ylim(place - 1.4, -1.1)
    axes.set_xlim(0, 1.3 * max(row["useful_tokens_per_second"]["high"] for _, own in rows for row in own if row))
    axes.set_xlabel("useful tokens/s: the median, least to most")
    axes.set_title(f"Useful tokens per second\n{_what(reports[0])}", fontsize=11)
    _quiet(axes)
    return figure


def steps(pyplot: Any, reports: list[Report]) -> Any:
    """Where the time of a step goes: a bar for each report, in shares of the step, with milliseconds."""
    figure, axes = pyplot.subplots(figsize=(9, 1.9 + 0.6 * len(reports)), layout="constrained")
    for place, report in enumerate(reports):
        parts, left = report.content["step"]["parts"], 0.0
        whole = sum(parts.values())
        for part, label in LABELS.items():
            share = 100 * parts[part] / whole
            axes.barh(place, share, left=left, color=COLOURS[part], label=label if not place else None)
            if share >= 8:
                text = f"{1e3 * parts[part]:.3g} ms"
                axes.text(left + share / 2, place, text, ha="center", va="center", fontsize=9, color="white")
            left += share
    names = [f"{_name(report, reports)}\n{1e3 * report.content['step']['step']['seconds']:.3g} ms a step" for report in reports]
    axes.set_yticks(range(len(reports)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of a step, %")
    axes.set_title(f"Where the time of a step goes\n{_what(reports[0])}", fontsize=11)
    _quiet(axes)
    _legend_below(figure, columns=len(LABELS))
    return figure


def _name(report: Report, reports: list[Report]) -> str:
    """The machine, and the file's name if several reports are of the same machine."""
    alone = sum(one.machine == report.machine for one in reports) == 1
    return report.machine if alone else f"{report.label}: {report.machine}"


def _speed(row: dict[str, Any]) -> str:
    ratio = f", {row['ratio']['median']:.2g} times mlx-lm's" if row["ratio"] and row["kind"] != AUTOREGRESSIVE else ""
    return f"{row['useful_tokens_per_second']['median']:.3g}{ratio}"


def _cost(row: dict[str, Any]) -> str:
    per_token = row["positions_per_useful_token"]
    positions = f", {per_token:.3g} positions/token" if per_token is not None else ""
    return f"NFE {row['nfe'] / len(row['generations']):.3g}, {row['tokens_per_forward']:.3g} tokens/forward{positions}"


def _what(report: Report) -> str:
    model = report.content["model"]
    return f"{model['name']}, {model['bits_per_weight']:.3g} bits a weight, {model['dtype']}"


def _ceilings(report: Report) -> Ceilings:
    own = report.content["ceilings"]
    return Ceilings(chip=report.machine, bandwidth=own["bandwidth"], flops=own["flops"], source=own["source"])


def _work(report: Report) -> Work:
    model = report.content["model"]
    count = model["forward_parameters"]
    return Work(parameters=count, bits_per_weight=8 * model["forward_bytes"] / count)


def _quiet(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_below(figure: Any, columns: int = 1) -> None:
    figure.legend(loc="outside lower center", fontsize=9, ncols=columns, frameon=False)
