"""Two traces beside each other, in numbers and as a table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .autoregressiveness import committed_in, global_autoregressiveness, local_autoregressiveness, order_agreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .run import Record, Trace

KS = (1, 2, 4, 8)


def numbers(trace: "Trace") -> dict[str, Any]:
    """What one run cost, and how far it went from left to right."""
    stats = trace.stats.to_dict()
    del stats["peak_memory_bytes"]
    steps, masked = list(trace.useful()), trace.open
    return {
        "row": trace.row,
        "model": trace.header["model"],
        "rule": trace.header["config"].get("rule"),
        "window": trace.header["config"].get("window"),
        **stats,
        "steps": len(trace.records),
        "taken_back": sum(len(record.remasked) for record in trace.records),
        "local_autoregressiveness": {str(k): local_autoregressiveness(steps, masked, k) for k in KS},
        "global_autoregressiveness": {str(k): global_autoregressiveness(steps, masked, k) for k in KS},
    }


def agreement(one: "Trace", other: "Trace") -> dict[str, Any]:
    """Whether they wrote the same, from where on they did not, and whether in the same order."""
    pairs = list(zip(one.holes, other.holes, strict=True))
    length = sum(max(len(a), len(b)) for a, b in pairs)
    same = sum(int((a[: len(b)] == b[: len(a)]).sum()) for a, b in pairs)
    order = order_agreement(*_whens(one, other))
    return {
        "same_text": one.text == other.text,
        "same_tokens": same / length if length else 1.0,
        "first_difference": first_difference(one, other),
        "order_agreement": order,
        "kendall_tau": None if order is None else 2 * order - 1,
    }


def first_difference(one: "Trace", other: "Trace") -> int | None:
    """The first step, counted from 1, that commits or takes back something else; None where no step does."""
    for number, (a, b) in enumerate(zip(one.records, other.records, strict=False), start=1):
        if _done(one, a) != _done(other, b):
            return number
    if len(one.records) == len(other.records):
        return None
    return min(len(one.records), len(other.records)) + 1


def _done(trace: "Trace", record: "Record") -> list[list[int]]:
    """What a step did; where, counted in each hole from its start, for the holes of two runs may differ in length."""
    starts = trace.canvas.holes[0, :, 0]
    found = [record.tokens.tolist()]
    for at in (record.committed, record.remasked):
        hole = np.maximum(np.searchsorted(starts, at, side="right") - 1, 0)
        found += [hole.tolist(), (at - starts[hole]).tolist()]
    return found


def _whens(one: "Trace", other: "Trace") -> "list[NDArray[np.int32]]":
    """Which step wrote what, at the places that both runs have: before the holes and in each up to where a text ends."""
    whens = [committed_in(trace.records, len(trace.masked)) for trace in (one, other)]
    spans = [[(0, trace.canvas.start), *trace.spans] for trace in (one, other)]
    lengths = [min(end - start for start, end in pair) for pair in zip(*spans, strict=True)]
    return [
        np.concatenate([when[start : start + length] for (start, _), length in zip(found, lengths, strict=True)])
        for when, found in zip(whens, spans, strict=True)
    ]


def print_comparison(one: "Trace", other: "Trace") -> None:
    """A table of the numbers, and what they have in common below it."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=console.width >= 80)
    for trace in (one, other):
        row = f", canvas {trace.row}" if trace.rows > 1 else ""
        table.add_column(escape(trace.path.name) + row, justify="right", overflow="fold")
    a, b = (_cells(numbers(trace)) for trace in (one, other))
    for label in a:
        table.add_row(label, a[label], b[label])
    console.print(table)
    found = agreement(one, other)
    what = "the same" if found["same_text"] else f"differs; {100 * found['same_tokens']:.1f} % of its tokens are the same"
    number = found["first_difference"]
    console.print("Autoregressiveness and order are of the text's tokens, its end with them.", style="dim")
    console.print(f"text: {what}", highlight=False)
    console.print(f"first step that differs: {number or 'none'}", highlight=False)
    if found["order_agreement"] is not None:
        console.print(
            f"order: {100 * found['order_agreement']:.1f} % of the pairs of positions in the same order"
            f" (Kendall's tau {found['kendall_tau']:.2f})",
            highlight=False,
        )


def _cells(row: dict[str, Any]) -> dict[str, str]:
    from rich.markup import escape

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    positions = row["positions_per_useful_token"]
    return {
        "model": escape(row["model"]),
        "rule": escape(str(row["rule"])),
        "window": escape(str(row["window"])),
        "forwards (NFE)": f"{row['nfe']}",
        "steps": f"{row['steps']}",
        "positions forwarded": f"{row['positions']}",
        "useful tokens": f"{row['useful_tokens']}",
        "useful tokens per forward": f"{row['tokens_per_forward']:.2f}",
        "positions per useful token": "-" if positions is None else f"{positions:.1f}",
        "useful tokens per second": f"{row['useful_tokens_per_second']:.1f}",
        "tokens taken back": f"{row['taken_back']}",
        **{f"local autoregressiveness@{k}": share(row["local_autoregressiveness"][str(k)]) for k in KS},
        **{f"global autoregressiveness@{k}": share(row["global_autoregressiveness"][str(k)]) for k in KS},
    }
