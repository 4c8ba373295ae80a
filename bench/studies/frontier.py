"""Accuracy and cost of a grid of decoding configurations on one task file, measured in one run.

    python -m bench.studies.frontier bench/tasks/functions.jsonl --out frontier --allow-code-execution

writes `frontier/frontier.json` and `frontier/frontier.svg`, prints a table, and ends with one line of
JSON. Not covered: temperature (the grid is greedy), and other models than the given one.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_diffucoder.config import PRESETS, GenerationConfig
from mlx_diffucoder.errors import ExecutionError
from mlx_diffucoder.plotting import plotter

from .terminal import one_line

if TYPE_CHECKING:
    from mlx_diffucoder.tasks import Task

# Name -> fields of GenerationConfig: the presets, and configurations to compare them with.
GRID: dict[str, dict[str, Any]] = {
    "reference, one token a step": {"reference": True},
    "reference, two tokens a step": {"reference": True, "steps": 0.5},  # a share of max_tokens
    "left to right": {"rule": "leftmost", "window": "sliding:width=1,suffix=28"},
    "exact": dict(PRESETS["exact"]),
    "exact, drafts": {"window": "drafts:ahead=8"},
    "threshold, whole canvas": {"rule": "threshold:tau=0.9", "window": "whole"},
    "blocks, prefix cache": {"rule": "threshold:tau=0.9", "window": "blocks-prefix:size=32", "alg": "maskgit_plus"},
    "blocks, dual cache": {"rule": "threshold:tau=0.9", "window": "blocks-dual:size=32", "alg": "maskgit_plus"},
    "blocks, dual, as published": {"rule": "threshold:tau=0.9", "window": "blocks-dual:size=32,stop=0", "alg": "maskgit_plus"},
    "entropy bound": {"rule": "entropy-bound:gamma=0.1", "window": "sliding:width=24,suffix=4"},
    "threshold 0.7": {"rule": "threshold:tau=0.7", "window": "sliding:width=28,suffix=0"},
    "threshold 0.9": {"rule": "threshold:tau=0.9", "window": "sliding:width=24,suffix=4"},
    "tree, verified only": {"rule": "leftmost", "window": "tree:rows=32"},
    "tree, 0.9": {"rule": "threshold:tau=0.9", "window": "tree:rows=32"},
    "tree of 8 rows, verified only": {"rule": "leftmost", "window": "tree:rows=8"},
    "tree of 24 rows": {"rule": "threshold:tau=0.95", "window": "tree:rows=24"},
    "tree of 64 rows": {"rule": "threshold:tau=0.95", "window": "tree:rows=64"},
    "tree of 128 rows": {"rule": "threshold:tau=0.95", "window": "tree:rows=128"},
    "tree of 8 rows": {"rule": "threshold:tau=0.95", "window": "tree:rows=8"},
    "entropy, tree": {"rule": "entropy:gamma=0.5", "window": "tree:rows=32"},
    "entropy, one tile": {"rule": "entropy:gamma=0.5", "window": "sliding:width=20,suffix=2"},
    "entropy, ahead": {"rule": "entropy:gamma=0.5", "window": "ahead"},
    "forcing": {"rule": "forcing:skip=0.9", "window": "forcing:block=16,add=0.9"},
    "forcing, blocks of 32": {"rule": "forcing:skip=0.9", "window": "forcing:block=32,add=0.3"},
    "balanced": dict(PRESETS["balanced"]),
}
REFERENCE = "reference, one token a step"


def config_of(fields: dict[str, Any], max_tokens: int) -> GenerationConfig:
    """A row of the grid on a canvas of `max_tokens`; its `steps` are a share of them."""
    steps: dict[str, Any] = {"steps": max(1, int(fields["steps"] * max_tokens))} if "steps" in fields else {}
    return GenerationConfig(**{"max_tokens": max_tokens, "seed": 0, **fields, **steps})


def main(
    tasks: Annotated[Path, typer.Argument(help="A task file, as diffucode eval reads it.")],
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option(help="The dtype to compute in.")] = "float32",
    max_tokens: Annotated[int, typer.Option()] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many tasks.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this row of the grid; repeatable.")] = None,
    split: Annotated[str | None, typer.Option(help="Use only the tasks of this split.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("frontier"),
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution")] = False,
) -> None:
    """Measure the grid over a task file."""
    with one_line("frontier"):
        if not allow_code_execution:
            raise ExecutionError("this runs code that the model writes; add --allow-code-execution to accept that")
        grid = {name: fields for name, fields in GRID.items() if not only or name in only}
        if unknown := set(only or ()) - GRID.keys():
            raise ExecutionError(f"the grid has no row {sorted(unknown)[0]!r}; its rows: {', '.join(GRID)}")
        pyplot = plotter()  # checked before minutes are spent
        rows = dict(measure(grid, tasks_of(tasks, split)[:limit], model, dtype, max_tokens))
        report = {"model": model, "dtype": dtype, "max_tokens": max_tokens, "tasks": str(tasks), "rows": rows}
        out.mkdir(parents=True, exist_ok=True)
        (out / "frontier.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw(pyplot, rows, out / "frontier.svg")
    print(json.dumps(report))


def tasks_of(file: Path, split: str | None) -> "list[Task]":
    """The tasks of a file, or of one split of it."""
    from mlx_diffucoder.tasks import read_tasks

    tasks = read_tasks(file)
    if split is None:
        return tasks
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [task for task, row in zip(tasks, rows, strict=True) if row.get("split") == split]


def measure(
    grid: dict[str, dict[str, Any]], tasks: "list[Task]", model: str, dtype: str, max_tokens: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Evaluate each row of the grid after one warm-up answer, and print a line of the table.

    `same_text` counts the answers equal to those of the first row, the reference if it is in the grid; `over_a_tile` is the
    share of the forwards after an answer's first that have more rows than a tile.
    """
    from mlx_diffucoder.decoding.result import TILE
    from mlx_diffucoder.evaluation import Summary, evaluate
    from mlx_diffucoder.loading import load

    network, tokenizer = load(model, dtype=dtype)
    head = ("pass@1, %", "interval", "NFE", "tokens/NFE", "pos/token", "tiles/token", "over a tile", "tokens/s", "same text")
    print(f"{'':30}" + "".join(f"{one:>14}" for one in head))
    first: list[str] | None = None
    for name, fields in grid.items():
        config = config_of(fields, max_tokens)
        list(evaluate(network, tokenizer, tasks[:1], config))
        results = list(evaluate(network, tokenizer, tasks, config))
        summary, answers = Summary.of(results), [result.answer for result in results]
        first = first or answers
        same = sum(map(str.__eq__, answers, first))
        later = [rows for result in results for rows in result.rows[1:]]
        over = sum(rows > TILE for rows in later) / max(1, len(later))
        stats, interval = summary.stats, [100 * end for end in summary.interval or (0, 0)]
        cells = (
            *(f"{100 * summary.passed / summary.answers:.1f}", "{:.1f} to {:.1f}".format(*interval), f"{summary.nfe:.2f}"),
            *(f"{stats.tokens_per_forward:.2f}", f"{stats.positions_per_useful_token:.1f}"),
            *(f"{stats.tiles_per_useful_token:.3f}", f"{100 * over:.0f} %", f"{stats.tokens_per_second:.1f}", f"{same}"),
        )
        print(f"{name:30}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
        numbers = {**summary.to_dict(), "same_text": same, "over_a_tile": over}
        yield name, {**numbers, "config": replace(config, seed=None).to_dict()}


def draw(pyplot: Any, rows: dict[str, dict[str, Any]], path: Path) -> None:
    """pass@1 against positions per useful token, as a picture."""
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    colours = pyplot.get_cmap("tab20")
    for place, (name, row) in enumerate(rows.items()):
        at = (row["positions_per_useful_token"], 100 * row["pass@1"])
        axes.plot(*at, "D" if name in PRESETS else "o", color=colours(place), markersize=9, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("positions forwarded per useful token (fewer is faster)")
    axes.set_ylabel("pass@1, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9, title="diamonds: presets")
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    typer.run(main)
