"""Results files side by side: which are comparable, and their tables."""

from collections.abc import Callable, Iterator
from typing import Any

from mlx_diffucoder.formatting import format_bytes

from .decoders import AUTOREGRESSIVE
from .report import Report
from .speed import LABELS
from .timing import spread_text

NAME, COLUMN = 24, 21
"""Widths: of the column of names, and of each report's column."""


Rows = list[tuple[str, list[dict[str, Any] | None]]]
"""Decoders by name, each with its row in every report; None for a report that does not have it."""


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What two results measured differently, an item each; an empty list means that they are comparable.

    The machine and its software may differ, because these are compared.
    """
    found, own, its = list[str](), one["model"], other["model"]
    if own["shape"] != its["shape"]:
        found.append(f"a model of {_size(own)}, not of {_size(its)}")
    if abs(own["bits_per_weight"] - its["bits_per_weight"]) > 0.01:
        found.append(f"{own['bits_per_weight']:.2f} bits a weight, not {its['bits_per_weight']:.2f}")
    if own["dtype"] != its["dtype"]:
        found.append(f"computed in {own['dtype']}, not in {its['dtype']}")
    if own["random"] != its["random"] or (not found and own["weights"] != its["weights"]):
        found.append("other weights")
    for key in sorted(one["config"].keys() | other["config"].keys()):
        if one["config"].get(key) != other["config"].get(key):
            found.append(f"{key} {one['config'].get(key)}, not {other['config'].get(key)}")
    if one["prompts"] != other["prompts"]:
        found.append("other prompts")
    return found


def _size(model: dict[str, Any]) -> str:
    shape = model["shape"]
    return f"{model['parameters'] / 1e6:.1f}M parameters in {shape.get('num_hidden_layers')} layers"


def comparable_rows(reports: list[Report]) -> Rows:
    """The decoders that the reports have."""
    names = dict.fromkeys(row["name"] for report in reports for row in report.content["decoders"])
    return [
        (name, [next((row for row in report.content["decoders"] if row["name"] == name), None) for report in reports])
        for name in names
    ]


def comparison_lines(reports: list[Report], columns: int) -> Iterator[str]:
    """The results of `bench compare`: every report, and tables of those that are comparable with the first.

    Args:
        columns: the width of the terminal; tables that do not fit are printed in pieces.
    """
    yield from _heads(reports)
    alike = comparable(reports)
    for report in reports:
        if different := differences(report.content, reports[0].content):
            label = reports[0].label
            yield f"NOT COMPARABLE: {report.label} did not measure what {label} did: {'; '.join(different)}"
    widths = sorted({row["rows"] for report in reports for row in report.content["forwards"]})
    forwards = {f"rows: {width}": [_forward(report, width) for report in reports] for width in widths}
    steps = [report.content["step"] for report in alike]
    step = {label: [f"{1e3 * one['parts'][part]:.2f}" for one in steps] for part, label in LABELS.items()}
    step["gap"] = [spread_text(one["gap"], "seconds", 1e3) for one in steps]
    step["whole step"] = [spread_text(one["step"], "seconds", 1e3) for one in steps]
    decoders = comparable_rows(alike)
    # Without the baseline and decoders that have no ratio to it.
    compared = [
        (name, rows)
        for name, rows in decoders
        if all(row is None or (row["kind"] != AUTOREGRESSIVE and row["ratio"]) for row in rows)
    ]
    tables = [
        ("forward, ms", reports, forwards),
        ("step, ms", alike, step),
        ("useful tokens/s", alike, _cells(decoders, lambda row: spread_text(row["useful_tokens_per_second"]))),
        ("times mlx-lm's", alike, _cells(compared, lambda row: spread_text(row["ratio"]))),
        ("useful tokens/forward", alike, _cells(decoders, lambda row: f"{row['tokens_per_forward']:.2f}")),
        ("positions/useful token", alike, _cells(decoders, _positions)),
    ]
    for title, shown, rows in tables:
        yield from _table(title, [report.label for report in shown], rows, max(1, (columns - NAME) // COLUMN))


def comparable(reports: list[Report]) -> list[Report]:
    """The reports that are comparable with the first one, which is among them."""
    return [report for report in reports if not differences(report.content, reports[0].content)]


def comparison_of(reports: list[Report]) -> list[dict[str, Any]]:
    """The reports ready for JSON, each with its file, its machine and what it measured differently from the first."""
    return [
        {"file": one.label, "machine": one.machine, "differs": differences(one.content, reports[0].content), **one.content}
        for one in reports
    ]


def _heads(reports: list[Report]) -> Iterator[str]:
    for report in reports:
        model, card, ceilings = report.content["model"], report.content["card"], report.content["ceilings"]
        yield f"{report.label}: {report.machine}, {format_bytes(card['memory_bytes'])}, {card['system']}, MLX {card['mlx']}"
        yield f"  {model['name']}: {model['bits_per_weight']:.2f} bits a weight, {model['dtype']}; {report.content['made']}"
        yield f"  {ceilings['bandwidth'] / 1e9:.0f} GB/s, {ceilings['flops'] / 1e12:.3g} TFLOP/s ({ceilings['source']})"
        yield f"  trials: {report.content['trials']}, medians (least-most)"


def _table(title: str, labels: list[str], rows: dict[str, list[str]], fitting: int) -> Iterator[str]:
    """One kind of number, a column for each report, `fitting` columns at a time."""
    lines = {title: [label[-COLUMN + 1 :] for label in labels], **rows}
    for start in range(0, len(labels) if rows else 0, fitting):
        yield ""
        for name, cells in lines.items():
            yield f"{name:{NAME}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells[start : start + fitting])


def _forward(report: Report, width: int) -> str:
    found = [row["time"] for row in report.content["forwards"] if row["rows"] == width]
    return spread_text(found[0], "seconds", 1e3) if found else ""


def _cells(decoders: Rows, show: Callable[[dict[str, Any]], str]) -> dict[str, list[str]]:
    return {name: [show(row) if row else "" for row in rows] for name, rows in decoders}


def _positions(row: dict[str, Any]) -> str:
    return "" if row["positions_per_useful_token"] is None else f"{row['positions_per_useful_token']:.1f}"
