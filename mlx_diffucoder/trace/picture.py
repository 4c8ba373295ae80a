"""A trace as plots, and as a page that replays it: the files of `diffucode trace plot`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..files import write_output
from .autoregressiveness import distances, global_autoregressiveness, local_autoregressiveness
from .page import page_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .run import Trace

PICTURES = (".png", ".svg")
PAGE = ".html"
# The meaning of a commit's score, by `GenerationConfig.alg`.
SCORES = {
    "entropy": "negative entropy, nats",
    "maskgit_plus": "probability",
    "topk_margin": "margin of probability",
    "origin": "a random number",
}


def outputs(name: Path) -> list[Path]:
    """The files to write for a name: one, or all three kinds. Raises `ConfigError` if one of them cannot be written."""
    ending = name.suffix.lower()
    if ending in (*PICTURES, PAGE):
        paths = [name]
    elif ending and ending[1:].isalpha() and len(ending) <= 5:
        what = "the name must end in .png, .svg or .html; a name without an ending writes all three"
        raise ConfigError(f"--out {name}: {what}", field="--out")
    else:
        paths = [name.with_name(name.name + kind) for kind in (*PICTURES, PAGE)]
    for path in paths:
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise ConfigError(f"--out {path}: cannot be written; name a file in an existing folder")
    return paths


def plotter_for(paths: Sequence[Path]) -> Any:
    """matplotlib's pyplot if one of the files needs it. Raises `ConfigError` if it is not installed."""
    if all(path.suffix.lower() == PAGE for path in paths):
        return None
    from ..errors import ExecutionError
    from ..plotting import plotter

    try:
        return plotter()
    except ExecutionError as error:
        raise ConfigError(f"{error}; the page needs no matplotlib: --out {paths[0].with_suffix(PAGE)}") from None


def draw_trace(pyplot: Any, trace: "Trace", paths: Sequence[Path]) -> None:
    """Write each file whole or not at all."""
    figure = _figure(pyplot, trace) if pyplot else None
    for path in paths:
        if path.suffix.lower() == PAGE:
            write_output(path, page_of(trace), flag="--out")
        else:
            write_output(path, lambda file: figure.savefig(file, dpi=150), flag="--out")  # type: ignore[union-attr]
    if pyplot:
        pyplot.close(figure)


def _figure(pyplot: Any, trace: "Trace") -> Any:
    figure, ((order, scores), (counts, left)) = pyplot.subplots(
        2, 2, figsize=(13, 8), layout="constrained", width_ratios=(3, 2), height_ratios=(2, 1)
    )
    _draw_order(order, trace)
    _draw_counts(counts, trace)
    _draw_scores(scores, trace)
    _draw_autoregressiveness(left, trace)
    stats = trace.stats
    # A dollar sign would start a formula.
    parts = [f"{stats.nfe} forwards", f"{stats.useful_tokens} useful tokens", *filter(None, [trace.canvas_name])]
    title = f"{trace.header['model']}: {', '.join(parts)}".replace("$", r"\$")
    figure.suptitle(title)
    return figure


def filled(trace: "Trace") -> "NDArray[np.float64]":
    """For each step and each position in the holes the step, counted from 1, that wrote its token; NaN for a mask.

    Float64 `[steps, positions]`; an answer is one hole.
    """
    positions = np.concatenate([np.arange(start, stop) for start, stop in trace.canvas.holes[0]])
    when = np.where(trace.masked, np.nan, 0.0)
    rows = []
    for number, record in enumerate(trace.records, start=1):
        when = when.copy()
        when[record.committed] = number
        when[record.remasked] = np.nan
        rows.append(when[positions])
    return np.array(rows).reshape(len(rows), len(positions))


def _draw_order(axes: Any, trace: "Trace") -> None:
    cells = filled(trace)
    if cells.size:
        extent = (-0.5, cells.shape[1] - 0.5, len(cells) + 0.5, 0.5)
        image = axes.imshow(cells, aspect="auto", interpolation="nearest", cmap="viridis", extent=extent)
        axes.figure.colorbar(image, ax=axes, label="committed in step")
    holes = (trace.canvas.holes[0, :, 1] - trace.canvas.holes[0, :, 0]).cumsum()
    for end in holes[:-1]:
        axes.axvline(end - 0.5, color="tab:red", linewidth=1)
    name = "answer" if trace.layout is None else "holes" if len(holes) > 1 else "hole"
    axes.set(title="order of commits", xlabel=f"position in the {name}", ylabel="step")


def _draw_counts(axes: Any, trace: "Trace") -> None:
    numbers = np.arange(1, len(trace.records) + 1)
    axes.bar(numbers, [len(one.committed) for one in trace.records], width=1.0, label="committed")
    if any(len(one.remasked) for one in trace.records):
        axes.bar(numbers, [-len(one.remasked) for one in trace.records], width=1.0, color="tab:red", label="remasked")
        axes.legend()
    axes.set(title="tokens per step", xlabel="step", ylabel="tokens")
    axes.grid(alpha=0.3)


def _draw_scores(axes: Any, trace: "Trace") -> None:
    found = np.array(list(distances(trace.useful_steps(), trace.useful)), dtype=float).reshape(-1, 3)
    axes.scatter(found[:, 1], found[:, 2], c=found[:, 0] + 1, cmap="viridis", s=14)
    name = SCORES.get(str(trace.header["config"].get("alg")), "score")
    axes.set(title="confidence when committed", xlabel="distance from the prefix", ylabel=name)
    axes.grid(alpha=0.3)


def _draw_autoregressiveness(axes: Any, trace: "Trace") -> None:
    ks = range(1, 17)
    steps = list(trace.useful_steps())
    for name, measure in (("local", local_autoregressiveness), ("global", global_autoregressiveness)):
        shares = [measure(steps, trace.useful, k) for k in ks]
        axes.plot(ks, [np.nan if share is None else share for share in shares], "o-", markersize=4, label=name)
    axes.set(title="autoregressiveness@k", xlabel="k", ylabel="share of tokens", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend()
