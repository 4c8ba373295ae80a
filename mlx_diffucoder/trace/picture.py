"""A trace as plots, and as one HTML page that replays it without network or libraries: the files of `diffucode trace plot`."""

import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import write_output
from ..formatting import visible
from ..plotting import check_plot, plotter, save_plot
from .autoregressiveness import distances, global_autoregressiveness, local_autoregressiveness
from .reader import text_or_bytes
from .run import Record, Trace

PICTURES = (".png", ".svg")
PAGE = ".html"
TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = 2048  # steps and positions in the picture of the order, at most
# The meaning of a commit's score, by `GenerationConfig.alg`.
SCORES = {
    "entropy": "negative entropy, nats",
    "maskgit_plus": "probability",
    "topk_margin": "margin of probability",
    "origin": "a random number",
}


def outputs(name: Path) -> list[Path]:
    """The files to write for a name: one, or all three kinds.

    Raises:
        ConfigError: the name has another ending.
        FileError: a file cannot be written, or exists and is not a plot.
    """
    ending = name.suffix.lower()
    if ending in (*PICTURES, PAGE):
        paths = [name]
    elif ending and ending[1:].isalpha() and len(ending) <= 5:
        what = "the name must end in .png, .svg or .html; a name without an ending writes all three"
        raise ConfigError(f"--out {name}: {what}", field="--out")
    else:
        paths = [name.with_name(name.name + kind) for kind in (*PICTURES, PAGE)]
    for path in paths:
        check_plot(path, flag="--out")
    return paths


def plotter_for(paths: Sequence[Path]) -> Any:
    """matplotlib's pyplot if one of the files needs it. Raises `ConfigError` if it is not installed."""
    if all(path.suffix.lower() == PAGE for path in paths):
        return None
    from ..errors import ExecutionError

    try:
        return plotter()
    except ExecutionError as error:
        raise ConfigError(f"{error}; the page needs no matplotlib: --out {paths[0].with_suffix(PAGE)}") from None


def draw_trace(pyplot: Any, trace: Trace, paths: Sequence[Path]) -> None:
    """Write each file whole or not at all."""
    figure = _figure(pyplot, trace) if pyplot else None
    for path in paths:
        if path.suffix.lower() == PAGE:
            write_output(path, page_of(trace), flag="--out")
        else:
            save_plot(figure, path, flag="--out")
    if pyplot:
        pyplot.close(figure)


def _figure(pyplot: Any, trace: Trace) -> Any:
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
    title = visible(f"{trace.header['model'][:100]}: {', '.join(parts)}").replace("$", r"\$").replace("\n", " ")
    figure.suptitle(title)
    return figure


def filled(trace: Trace) -> NDArray[np.float64]:
    """For each step and each position in the holes the step, counted from 1, that wrote its token; NaN for a mask.

    Float64 `[steps, positions]`; an answer is one hole. Of more steps or positions than a picture can show, every n-th.
    """
    positions = np.concatenate([np.arange(start, stop) for start, stop in trace.canvas.holes[0]])
    every, among = (max(1, -(-count // SHOWN)) for count in (len(trace.records), len(positions)))
    when = np.where(trace.masked, np.nan, 0.0)
    rows = []
    for number, record in enumerate(trace.records, start=1):
        when[record.committed] = number
        when[record.remasked] = np.nan
        if number % every == 0 or number == len(trace.records):
            rows.append(when[positions[::among]])
    return np.array(rows).reshape(len(rows), len(positions[::among]))


def _draw_order(axes: Any, trace: Trace) -> None:
    cells = filled(trace)
    if cells.size:
        extent = (-0.5, int(np.diff(trace.canvas.holes[0]).sum()) - 0.5, len(trace.records) + 0.5, 0.5)
        image = axes.imshow(cells, aspect="auto", interpolation="nearest", cmap="viridis", extent=extent)
        axes.figure.colorbar(image, ax=axes, label="committed in step")
    holes = (trace.canvas.holes[0, :, 1] - trace.canvas.holes[0, :, 0]).cumsum()
    for end in holes[:-1]:
        axes.axvline(end - 0.5, color="tab:red", linewidth=1)
    name = "answer" if trace.layout is None else "holes" if len(holes) > 1 else "hole"
    axes.set(title="order of commits", xlabel=f"position in the {name}", ylabel="step")


def _draw_counts(axes: Any, trace: Trace) -> None:
    edges = np.arange(len(trace.records) + 1) + 0.5
    axes.stairs([len(one.committed) for one in trace.records], edges, fill=True, label="committed")
    if any(len(one.remasked) for one in trace.records):
        axes.stairs([-len(one.remasked) for one in trace.records], edges, fill=True, color="tab:red", label="remasked")
        axes.legend()
    axes.set(title="tokens per step", xlabel="step", ylabel="tokens")
    axes.grid(alpha=0.3)


def _draw_scores(axes: Any, trace: Trace) -> None:
    found = np.array(list(distances(trace.useful_steps(), trace.useful)), dtype=float).reshape(-1, 3)
    axes.scatter(found[:, 1], found[:, 2], c=found[:, 0] + 1, cmap="viridis", s=14)
    name = SCORES.get(str(trace.header["config"].get("alg")), "score")
    axes.set(title="confidence when committed", xlabel="distance from the prefix", ylabel=name)
    axes.grid(alpha=0.3)


def _draw_autoregressiveness(axes: Any, trace: Trace) -> None:
    ks = range(1, 17)
    steps = list(trace.useful_steps())
    for name, measure in (("local", local_autoregressiveness), ("global", global_autoregressiveness)):
        shares = [measure(steps, trace.useful, k) for k in ks]
        axes.plot(ks, [np.nan if share is None else share for share in shares], "o-", markersize=4, label=name)
    axes.set(title="autoregressiveness@k", xlabel="k", ylabel="share of tokens", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend()


def page_of(trace: Trace) -> str:
    """The page's HTML. The model's text is in it as JSON data only, and is shown as text."""
    # "<" could end the element that holds the data.
    data = json.dumps(_data(trace), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    values = {"title": html.escape(trace.header["model"]), "data": data}
    page = re.sub("{{(title|data)}}", lambda found: values[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    return page.encode("utf-8", "replace").decode()


def _data(trace: Trace) -> dict[str, Any]:
    start = trace.canvas.start - trace.prefix_length
    return {
        "model": trace.header["model"],
        "which": trace.canvas_name,
        "version": trace.header["version"],
        "config": trace.header["config"],
        "prompt": trace.text_of(trace.canvas.tokens[0, :start].tolist()),
        "mask": trace.canvas.mask_id,
        "ends": sorted(trace.canvas.end_ids),
        "tokens": trace.canvas.tokens[0, start:].tolist(),
        "pieces": {str(id): text_or_bytes(piece) for id, piece in trace.pieces.items()},
        "steps": [_row(record, start) for record in trace.records],
    }


def _row(record: Record, start: int) -> dict[str, Any]:
    """A step; positions count from the start of the shown text, and earlier ones are left out."""
    at, tokens, scores = record.committed - start, record.tokens, record.scores
    others, filled = record.others[0] - start, record.others[1]
    return {
        "at": at[at >= 0].tolist(),
        "tokens": tokens[at >= 0].tolist(),
        "scores": [float(f"{score:.4g}") if math.isfinite(score) else None for score in scores[at >= 0].tolist()],
        "back": [position for position in (record.remasked - start).tolist() if position >= 0],
        "others": [others[others >= 0].tolist(), filled[others >= 0].tolist()],
        "window": [max(0, end - start) for end in record.window],
        "nfe": record.nfe,
        "positions": record.positions,
        "seconds": record.seconds,
    }
