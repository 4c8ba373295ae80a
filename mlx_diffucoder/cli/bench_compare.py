"""`diffucode bench compare`: bench files side by side, as a table and as pictures."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BenchError
from ..formatting import format_bytes
from .options import Json, Quiet

if TYPE_CHECKING:
    from ..bench.report import Report

NAME, COLUMN = 24, 21  # columns of the table


def compare_benches(
    files: Annotated[list[Path], typer.Argument(help="What `diffucode bench --out` wrote.", show_default=False)],
    pictures: Annotated[Path | None, typer.Option(help="Draw into this folder, as PNG and SVG.", show_default=False)] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Compare bench files.

    Their machines side by side: forwards, the parts of a step, and useful tokens/s. A file that measured something else than the
    first is said to; only its forwards are shown.
    """
    from ..bench.report import Report, differences, read_report

    reports = [Report(label, read_report(file)) for file, label in zip(files, _labels(files), strict=True)]
    pyplot = _plotter(pictures) if pictures else None
    others = [differences(report.content, reports[0].content) for report in reports]
    alike = [report for report, other in zip(reports, others, strict=True) if not other]
    drawn: list[Path] = []
    if pictures:
        from ..bench.pictures import draw

        drawn = draw(pyplot, reports, alike, pictures)
    if as_json:
        print(json.dumps(_said(reports, others, drawn), ensure_ascii=False))
        return 0
    for line in [*_heads(reports), *_different(reports, others), *_tables(reports, alike)]:
        print(line)
    for file in drawn:
        print(f"drawn: {file}", file=sys.stderr)
    return 0


def _labels(files: list[Path]) -> list[str]:
    short = [file.stem for file in files]
    return short if len(set(short)) == len(short) else [str(file) for file in files]


def _plotter(folder: Path) -> Any:
    """matplotlib, where it can draw there; the folder is made."""
    from ..plotting import plotter

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise BenchError(f"--pictures {folder}: cannot be made ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise BenchError(f"--pictures {folder}: may not be written (permission denied); name another folder")
    return plotter()


def _said(reports: "list[Report]", others: list[list[str]], drawn: list[Path]) -> dict[str, Any]:
    rows = [
        {"file": report.label, "machine": report.machine, "differs": differs, **report.content}
        for report, differs in zip(reports, others, strict=True)
    ]
    return {"reports": rows, "pictures": [str(file) for file in drawn]}


def _heads(reports: "list[Report]") -> Iterator[str]:
    for report in reports:
        model, card, ceilings = report.content["model"], report.content["card"], report.content["ceilings"]
        yield f"{report.label}: {report.machine}, {format_bytes(card['memory_bytes'])}, {card['system']}, MLX {card['mlx']}"
        yield f"  {model['name']}: {model['bits_per_weight']:.2f} bits a weight, {model['dtype']}; {report.content['made']}"
        yield f"  {ceilings['bandwidth'] / 1e9:.0f} GB/s, {ceilings['flops'] / 1e12:.3g} TFLOP/s ({ceilings['source']})"
        yield f"  trials: {report.content['trials']}, medians (least-most)"


def _different(reports: "list[Report]", others: list[list[str]]) -> Iterator[str]:
    for report, other in zip(reports, others, strict=True):
        if other:
            yield f"NOT COMPARABLE: {report.label} did not measure what {reports[0].label} did: {'; '.join(other)}"


def _tables(reports: "list[Report]", alike: "list[Report]") -> Iterator[str]:
    from ..bench.speed import LABELS

    positions = sorted({row["positions"] for report in reports for row in report.content["forwards"]})
    yield from _table("forward, ms", reports, {f"positions: {width}": _forward(width) for width in positions})
    parts = {
        label: (lambda report, part=part: _milliseconds(report.content["step"]["parts"][part])) for part, label in LABELS.items()
    }
    whole = {"whole step": lambda report: _spread(report.content["step"]["step"], "seconds", 1e3)}
    yield from _table("step, ms", alike, {**parts, **whole})
    yield from _table("useful tokens/s", alike, _decoders(alike, lambda row: _spread(row["useful_tokens_per_second"], "median")))
    yield from _table("times mlx-lm's", alike, _decoders(alike, _ratio, without_baseline=True))
    yield from _table("useful tokens/forward", alike, _decoders(alike, lambda row: f"{row['tokens_per_forward']:.2f}"))
    yield from _table("positions/useful token", alike, _decoders(alike, _positions))


Cell = Callable[["Report"], str]


def _table(title: str, reports: "list[Report]", rows: dict[str, Cell]) -> Iterator[str]:
    """Rows of one kind of figure, a column a report; in pieces where the terminal is too narrow for all."""
    import shutil

    if not rows:
        return
    fitting = max(1, (shutil.get_terminal_size((80, 24)).columns - NAME) // COLUMN)
    for start in range(0, len(reports), fitting):
        shown = reports[start : start + fitting]
        yield ""
        yield f"{title:{NAME}}" + "".join(f"{report.label[-COLUMN + 1 :]:>{COLUMN}}" for report in shown)
        for label, cell in rows.items():
            yield f"{label:{NAME}}" + "".join(f"{cell(report):>{COLUMN}}" for report in shown)


def _forward(width: int) -> Cell:
    def cell(report: "Report") -> str:
        found = [row["time"] for row in report.content["forwards"] if row["positions"] == width]
        return _spread(found[0], "seconds", 1e3) if found else ""

    return cell


def _decoders(
    reports: "list[Report]", show: Callable[[dict[str, Any]], str], *, without_baseline: bool = False
) -> dict[str, Cell]:
    from ..bench.decoders import BASELINE
    from ..bench.report import comparable_rows

    def cell(own: dict[str, Any]) -> Cell:
        return lambda report: show(own[report.label]) if own[report.label] else ""

    cells = {}
    for name, rows in comparable_rows(reports):
        if not (without_baseline and any(row and (row["kind"] == BASELINE or not row["ratio"]) for row in rows)):
            cells[name] = cell(dict(zip((report.label for report in reports), rows, strict=True)))
    return cells


def _ratio(row: dict[str, Any]) -> str:
    return _spread(row["ratio"], "median")


def _positions(row: dict[str, Any]) -> str:
    return "" if row["positions_per_useful_token"] is None else f"{row['positions_per_useful_token']:.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _spread(one: dict[str, float], middle: str, unit: float = 1) -> str:
    value, low, high = (unit * one[key] for key in (middle, "low", "high"))
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
