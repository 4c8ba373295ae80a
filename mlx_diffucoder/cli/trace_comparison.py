"""Two traces beside each other, in numbers and as a table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..canvas import settled
from ..order import committed_in, global_autoregressiveness, local_autoregressiveness, order_agreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..traces import Trace

KS = (1, 2, 4, 8)


def numbers(trace: "Trace") -> dict[str, Any]:
    """What one run cost, and how far it went from left to right."""
    stats = trace.stats.to_dict()
    del stats["peak_memory_bytes"]
    return {
        "model": trace.header["model"],
        "rule": trace.header["config"].get("rule"),
        "window": trace.header["config"].get("window"),
        **stats,
        "steps": len(trace.records),
        "taken_back": sum(len(record.remasked) for record in trace.records),
        "local_autoregressiveness": {str(k): local_autoregressiveness(trace.useful(), trace.masked, k) for k in KS},
        "global_autoregressiveness": {str(k): global_autoregressiveness(trace.useful(), trace.masked, k) for k in KS},
    }


def agreement(one: "Trace", other: "Trace") -> dict[str, Any]:
    """Whether they wrote the same, from where on they did not, and whether in the same order."""
    a, b = _answer(one), _answer(other)
    length = max(len(a), len(b))
    same = int((a[: len(b)] == b[: len(a)]).sum())
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
        pairs = ((a.committed, b.committed), (a.tokens, b.tokens), (a.remasked, b.remasked))
        if not all(np.array_equal(*pair) for pair in pairs):
            return number
    if len(one.records) == len(other.records):
        return None
    return min(len(one.records), len(other.records)) + 1


def _answer(trace: "Trace") -> "NDArray[np.int32]":
    """The answer's tokens, up to where its text ends."""
    ids, _ = settled(trace.final[trace.canvas.start :], mask_id=trace.canvas.mask_id, end_ids=trace.canvas.end_ids)
    return ids


def _whens(one: "Trace", other: "Trace") -> "list[NDArray[np.int32]]":
    length = min(one.text_end, other.text_end)
    return [committed_in(trace.records, len(trace.masked))[:length] for trace in (one, other)]


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
        table.add_column(escape(trace.path.name), justify="right", overflow="fold")
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
