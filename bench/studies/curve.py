"""The curve of a training run: its loss by steps, as a picture.

    python -m bench.studies.curve FOLDER/causal/log.jsonl FOLDER/mixed/log.jsonl curve.svg

draws the `log.jsonl` that `diffucode train` writes: the loss since the last report, and where there is one, that on the
validation texts. Several are the stages of one training, one behind the other; losses of another objective are another
measure. Ends with one line of JSON: each log's last step and losses.
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
    files: Annotated[list[Path], typer.Argument(help="Logs, and last the picture to write: .svg, .png or .pdf.")],
) -> None:
    """Draw training logs."""
    with one_line("curve"):
        *logs, picture = files
        if not logs:
            raise BenchError("name at least one log.jsonl, and behind it the picture to write")
        if picture.suffix not in (".svg", ".png", ".pdf"):
            raise BenchError(f"{picture}: the picture's name must end with .svg, .png or .pdf")
        curves = {str(path): read(path) for path in logs}
        draw(plotter(), curves, picture)
    print(json.dumps({name: summary(rows) for name, rows in curves.items()}))


def read(path: Path) -> list[Row]:
    """A log's reports.

    Raises:
        BenchError: it has none, or a line that is no report.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({key: float(row[key]) for key in ("step", "loss", "valid") if key in row})
            if not {"step", "loss"} <= rows[-1].keys():
                raise ValueError
        except (ValueError, TypeError):
            raise BenchError(f"{path}: line {number} is no report of diffucode train") from None
    if not rows:
        raise BenchError(f"{path}: no report in it")
    return rows


def summary(rows: list[Row]) -> dict[str, float]:
    """The last step and its loss, and the last and the lowest loss on validation texts."""
    valid = [row["valid"] for row in rows if "valid" in row]
    ends = {"step": rows[-1]["step"], "loss": rows[-1]["loss"]}
    return {**ends, "valid": valid[-1], "lowest": min(valid)} if valid else ends


def draw(pyplot: Any, curves: dict[str, list[Row]], path: Path) -> None:
    """Loss by steps, logarithmic, one log behind the other."""
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
