"""Results files as charts of a page: the time of forwards, useful tokens/s, and where the time of a step goes."""

from pathlib import Path
from typing import Any

import numpy as np

from mlx_diffucoder.pages import GREY, write_page

from .ceilings import Ceilings
from .compare import comparable, comparable_rows
from .decoders import AUTOREGRESSIVE
from .report import Report
from .roofline import Work, ideal_seconds
from .speed import LABELS


def write_results(reports: list[Report], path: Path) -> None:
    """Write the page, whole or not at all. Raises `FileError`.

    Args:
        reports: the forwards of all are drawn, each with its own roofline; of the rest those comparable with the first.
    """
    alike = comparable(reports)
    charts = [_forwards(reports), _speeds(alike), _steps(alike)]
    notes = [f"{_name(one, reports)}: {_what(one)}; {one.content['made']}" for one in reports]
    write_page(path, "diffucode bench compare", {"notes": notes, "charts": charts}, flag="--pictures")


def _forwards(reports: list[Report]) -> dict[str, Any]:
    """The time of a forward by its rows: each report's medians with their spread, and its roofline."""
    series = list[dict[str, Any]]()
    for number, report in enumerate(reports):
        rows = report.content["forwards"]
        points = [[row["rows"], *(1e3 * row["time"][key] for key in ("seconds", "low", "high"))] for row in rows]
        widths = np.geomspace(1, max(row["rows"] for row in rows), 60)
        ideal = [[width, 1e3 * ideal_seconds(_ceilings(report), _work(report), width)] for width in widths.tolist()]
        label = f"{_name(report, reports)}; {_what(report)}"
        series += [{"name": label, "colour": number, "line": True, "points": points}]
        series += [{"colour": number, "dashed": True, "points": ideal}]
    series.append(
        {"name": "its roofline, max(weights / bandwidth, operations / rate)", "colour": GREY, "dashed": True, "points": []}
    )
    return {
        "title": "time of a forward by its rows",
        "x": {"label": "rows of a forward", "log": 2},
        "y": {"label": "time of a forward, ms", "log": 10},
        "series": series,
    }


def _speeds(reports: list[Report]) -> dict[str, Any]:
    """Useful tokens/s of each decoder on each machine, with the cost in forwards and positions under its name."""
    rows, decoders = list[dict[str, Any]](), comparable_rows(reports)
    for number, report in enumerate(reports):
        rows.append({"name": _name(report, reports)})
        for name, row in ((name, own[number]) for name, own in decoders):
            if row is not None:
                speed = row["useful_tokens_per_second"]
                colour = number if row["kind"] == "diffusion" else GREY
                ends = {"low": speed["low"], "high": speed["high"], "text": _speed(row)}
                rows.append({"name": name, "note": _cost(row), "bar": [[speed["median"], colour, ""]], **ends})
    return {"title": "useful tokens per second", "x": {"label": "useful tokens/s: the median, least to most"}, "rows": rows}


def _steps(reports: list[Report]) -> dict[str, Any]:
    """Where the time of a step goes: a bar for each report, in shares of the step, with milliseconds."""
    rows = list[dict[str, Any]]()
    for report in reports:
        step = report.content["step"]
        whole = sum(step["parts"].values())
        bar = [
            [100 * step["parts"][part] / whole, number, f"{1e3 * step['parts'][part]:.3g} ms"]
            for number, part in enumerate(LABELS)
        ]
        rows.append({"name": _name(report, reports), "note": f"{1e3 * step['step']['seconds']:.3g} ms a step", "bar": bar})
    legend = [{"name": name, "colour": number} for number, name in enumerate(LABELS.values())]
    return {"title": "where the time of a step goes", "x": {"label": "share of a step, %"}, "rows": rows, "legend": legend}


def _name(report: Report, reports: list[Report]) -> str:
    """The machine, and the file's name if several reports are of the same machine."""
    alone = sum(one.machine == report.machine for one in reports) == 1
    return report.machine if alone else f"{report.label}: {report.machine}"


def _speed(row: dict[str, Any]) -> str:
    ratio = f", {row['ratio']['median']:.2g} × mlx-lm" if row["ratio"] and row["kind"] != AUTOREGRESSIVE else ""
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
