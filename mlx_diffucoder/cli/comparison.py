"""The tables of `diffucode compare`."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..formatting import format_bytes

if TYPE_CHECKING:
    from ..data import Text
    from ..divergence.kl import Divergence
    from ..divergence.masking import Masked
    from .compare import Row

ENOUGH = 1000  # columns: no table is as wide
MEASURES = ("KL,\nnats", "top-1,\n%", "order,\n%", "first,\n%")


def print_tables(rows: "list[Row]", texts: "list[Text]", canvases: "list[Masked]") -> None:
    """One row a checkpoint, then one for each share of the answers masked."""
    base, *others = rows
    tokens = sum(len(text.answer) for text in texts)
    console = Console()
    for table in (_summary(rows), _by_ratio(others)):
        # No column is left away where the terminal is narrow, nor where there is none.
        needed = Console(width=ENOUGH).measure(table).maximum
        Console(width=max(console.width, needed)).print(table)
    console.print(
        f"{len(texts)} texts, {tokens} answer tokens, {len(canvases)} canvases. KL is from {escape(base.label)} at masked"
        " positions, with its 95 % interval; order: pairs of masks that both commit in the same order (50 is chance);"
        " first: canvases whose first commit is the same; perplexity: the coupled estimator's.",
        style="dim",
        highlight=False,
    )


def _summary(rows: "list[Row]") -> Table:
    passed = rows[0].passed is not None
    table = _table("size", "bits a\nweight", *MEASURES, "perplex-\nity", *(["pass@1,\n%"] if passed else []))
    for row in rows:
        mean: Divergence | None = row.comparison.overall if row.comparison else None
        cells = [escape(row.label), format_bytes(row.bytes_on_disk), f"{row.bits_per_weight:.2f}"]
        if mean:
            cells += [*_measures(mean), _perplexity(mean.other_perplexity)]
        else:
            cells += ["the base", "", "", "", _perplexity(rows[1].comparison.overall.perplexity)]
        if row.passed is not None and row.passed_interval:
            low, high = row.passed_interval
            cells.append(f"{100 * row.passed:.1f}\n[dim]{100 * low:.0f}–{100 * high:.0f}[/dim]")
        table.add_row(*cells)
    return table


def _by_ratio(rows: "list[Row]") -> Table:
    table = _table("masked", *MEASURES, "perplex-\nity")
    for row in rows:
        for place, (ratio, mean) in enumerate(row.comparison.by_ratio.items()):
            name = "" if place else escape(row.label)
            table.add_row(name, f"{100 * ratio:g} %", *_measures(mean, interval=False), _perplexity(mean.other_perplexity))
        table.add_section()
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("checkpoint", overflow="fold", max_width=16)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _measures(mean: "Divergence", *, interval: bool = True) -> list[str]:
    low, high = mean.kl_interval
    kl = f"{mean.kl:.3g}" + (f"\n[dim]{low:.2g}–{high:.2g}[/dim]" if interval else "")
    order = "-" if mean.order is None else f"{100 * mean.order:.2f}"
    return [kl, f"{100 * mean.top1:.2f}", order, f"{100 * mean.first:.1f}"]


def _perplexity(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:.0f}"
