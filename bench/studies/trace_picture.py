"""Draw a trace: commit order, tokens per step, confidence by distance, autoregressiveness.

    python -m bench.studies.trace_picture run.jsonl run.svg

`diffucode trace plot` makes a page that replays it, and `diffucode trace animate` an SVG that does.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.formatting import visible
from mlx_diffucoder.plotting import check_plot, plotter, save_plot
from mlx_diffucoder.trace.autoregressiveness import Commits, global_autoregressiveness, local_autoregressiveness
from mlx_diffucoder.trace.reader import read_trace
from mlx_diffucoder.trace.run import Trace

from .terminal import one_line

SHOWN = 2048  # steps and positions in the picture of the order, at most
# The meaning of a commit's score, by `GenerationConfig.alg`.
SCORES = {
    "entropy": "negative entropy, nats",
    "maskgit_plus": "probability",
    "topk_margin": "margin of probability",
    "origin": "a random number",
}


def main(
    trace: Annotated[Path, typer.Argument(help="A file that --trace wrote.")],
    out: Annotated[Path, typer.Argument(help="The picture: .svg, .png or .pdf.")],
    row: Annotated[int | None, typer.Option(min=1, help="The canvas, if the file has several.")] = None,
) -> None:
    """Draw a trace."""
    with one_line("trace_picture"):
        if out.suffix not in (".svg", ".png", ".pdf"):
            raise BenchError(f"{out}: the picture's name must end with .svg, .png or .pdf")
        check_plot(out, flag="OUT")
        figure = figure_of(plotter(), read_trace(trace, row))
        save_plot(figure, out, flag="OUT")
    print(out)


def figure_of(pyplot: Any, trace: Trace) -> Any:
    """Four plots: commit order, tokens per step, confidence by distance, autoregressiveness."""
    trace = trace.on_final
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
    positions = np.concatenate([np.arange(start, stop) for start, stop in trace.canvas.holes])
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
        extent = (-0.5, int(np.diff(trace.canvas.holes).sum()) - 0.5, len(trace.records) + 0.5, 0.5)
        image = axes.imshow(cells, aspect="auto", interpolation="nearest", cmap="viridis", extent=extent)
        axes.figure.colorbar(image, ax=axes, label="committed in step")
    holes = (trace.canvas.holes[:, 1] - trace.canvas.holes[:, 0]).cumsum()
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


def distances(steps: Iterable[Commits], masked: NDArray[np.bool_]) -> Iterator[tuple[int, int, float]]:
    """For each committed token its step, its distance from the text before its hole in tokens, and its score."""
    positions = np.arange(len(masked))
    distance = positions - np.maximum.accumulate(np.where(masked, 0, positions + 1))
    for number, step in enumerate(steps):
        yield from ((number, *one) for one in zip(distance[step.committed].tolist(), step.scores.tolist(), strict=True))


if __name__ == "__main__":
    typer.run(main)
