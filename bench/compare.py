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
Cell = Callable[[Report], str]


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


def comparable_rows(reports: list[Report]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """The decoders by name, each with its row in every report; None for a report that does not have it."""
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
    positions = sorted({row["positions"] for report in reports for row in report.content["forwards"]})
    forwards = {f"positions: {width}": _forward(width) for width in positions}
    parts = {label: _part(part) for part, label in LABELS.items()}
    whole = {"whole step": lambda report: spread_text(report.content["step"]["step"], "seconds", 1e3)}
    speed = _decoders(alike, lambda row: spread_text(row["useful_tokens_per_second"]))
    ratio = _decoders(alike, lambda row: spread_text(row["ratio"]), with_ratio=True)
    tables: list[tuple[str, list[Report], dict[str, Cell]]] = [
        ("forward, ms", reports, forwards),
        ("step, ms", alike, {**parts, **whole}),
        ("useful tokens/s", alike, speed),
        ("times mlx-lm's", alike, ratio),
        ("useful tokens/forward", alike, _decoders(alike, lambda row: f"{row['tokens_per_forward']:.2f}")),
        ("positions/useful token", alike, _decoders(alike, _positions)),
    ]
    for title, shown, rows in tables:
        yield from _table(title, shown, rows, max(1, (columns - NAME) // COLUMN))


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


def _table(title: str, reports: list[Report], rows: dict[str, Cell], fitting: int) -> Iterator[str]:
    """One kind of number, a column for each report, `fitting` columns at a time."""
    if not rows:
        return
    for start in range(0, len(reports), fitting):
        shown = reports[start : start + fitting]
        yield ""
        yield f"{title:{NAME}}" + "".join(f"{report.label[-COLUMN + 1 :]:>{COLUMN}}" for report in shown)
        for label, cell in rows.items():
            yield f"{label:{NAME}}" + "".join(f"{cell(report):>{COLUMN}}" for report in shown)


def _forward(width: int) -> Cell:
    def cell(report: Report) -> str:
        found = [row["time"] for row in report.content["forwards"] if row["positions"] == width]
        return spread_text(found[0], "seconds", 1e3) if found else ""

    return cell


def _part(part: str) -> Cell:
    return lambda report: f"{1e3 * report.content['step']['parts'][part]:.2f}"


def _decoders(reports: list[Report], show: Callable[[dict[str, Any]], str], *, with_ratio: bool = False) -> dict[str, Cell]:
    """A row for each decoder; `with_ratio` leaves out the baseline and decoders without a ratio to it."""

    def cell(own: dict[str, Any]) -> Cell:
        return lambda report: show(own[report.label]) if own[report.label] else ""

    cells = {}
    for name, rows in comparable_rows(reports):
        if not (with_ratio and any(row and (row["kind"] == AUTOREGRESSIVE or not row["ratio"]) for row in rows)):
            cells[name] = cell(dict(zip((report.label for report in reports), rows, strict=True)))
    return cells


def _positions(row: dict[str, Any]) -> str:
    return "" if row["positions_per_useful_token"] is None else f"{row['positions_per_useful_token']:.1f}"
