"""Draw the loss of training runs over steps.

    python -m bench.studies.curve FOLDER/causal/log.jsonl FOLDER/mixed/log.jsonl curve.svg

draws the `log.jsonl` that `diffucode train` writes: the training loss, and the validation loss if there is one. Several logs
are drawn as consecutive stages of one training. Losses of different objectives cannot be compared. Ends with one line of
JSON: each log's last step and losses.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.plotting import plotter

from .terminal import one_line

Row = dict[str, Any]


def main(
    files: Annotated[list[Path], typer.Argument(help="Logs, then the picture to write: .svg, .png or .pdf.")],
) -> None:
    """Draw training logs."""
    with one_line("curve"):
        *logs, picture = files
        if not logs:
            raise BenchError("name at least one log.jsonl, then the picture to write")
        if picture.suffix not in (".svg", ".png", ".pdf"):
            raise BenchError(f"{picture}: the picture's name must end with .svg, .png or .pdf")
        curves = {str(path): read(path) for path in logs}
        draw(plotter(), curves, picture)
    print(json.dumps({name: summary(rows) for name, rows in curves.items()}))


def read(path: Path) -> list[Row]:
    """The reports of a log.

    Raises:
        BenchError: it holds none, or a line that is not a report.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({key: float(row[key]) for key in ("step", "loss", "valid") if key in row})
            if not {"step", "loss"} <= rows[-1].keys():
                raise ValueError
        except (ValueError, TypeError):
            raise BenchError(f"{path}: line {number} is not a report of diffucode train") from None
    if not rows:
        raise BenchError(f"{path}: holds no report")
    return rows


def summary(rows: list[Row]) -> dict[str, float]:
    """The last step and its loss, and the last and the lowest validation loss."""
    valid = [row["valid"] for row in rows if "valid" in row]
    ends = {"step": rows[-1]["step"], "loss": rows[-1]["loss"]}
    return {**ends, "valid": valid[-1], "lowest": min(valid)} if valid else ends


def draw(pyplot: Any, curves: dict[str, list[Row]], path: Path) -> None:
    """Draw the loss over steps, on a logarithmic scale, one log after another."""
    from matplotlib.ticker import LogLocator

    figure, axes = pyplot.subplots(figsize=(10, 4), layout="constrained")
    colors = pyplot.get_cmap("tab20")
    before = 0.0
    for number, (name, rows) in enumerate(curves.items()):
        at, losses = [before + row["step"] for row in rows], [row["loss"] for row in rows]
        (line,) = axes.plot(at, losses, color=colors(number % colors.N), alpha=0.6, label=name)
        valid = {before + row["step"]: row["valid"] for row in rows if "valid" in row}
        if valid:
            axes.plot(list(valid), list(valid.values()), "o-", color=line.get_color(), markersize=3)
        before = at[-1]
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=99))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set(xlabel="optimizer steps", ylabel="loss, nats")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), title="training; dots: validation")
    try:
        figure.savefig(path)
    except OSError as error:
        raise BenchError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        pyplot.close(figure)


if __name__ == "__main__":
    typer.run(main)
