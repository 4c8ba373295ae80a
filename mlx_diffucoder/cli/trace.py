"""`diffucode trace`: show, draw, animate and compare recorded runs."""

import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..choices import block_length_of
from ..errors import ConfigError
from .command import Command, examples
from .options import Json, Quiet
from .terminal import cell, note, put, put_json

if TYPE_CHECKING:
    from ..trace.run import Trace

app = typer.Typer(name="trace", help="Show, draw, animate and compare the runs that --trace recorded.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="A file that --trace wrote.")]
Row = Annotated[
    int | None, typer.Option(min=1, help="The canvas, if the file has several.", show_default="the one that was kept")
]


@app.command(cls=Command, epilog=examples("diffucode trace show run.jsonl --speed 0.5"))
def show(
    file: File,
    speed: Annotated[float, typer.Option(help="Times as fast as the run; inf shows the end.")] = 1.0,
    row: Row = None,
    live: Annotated[bool, typer.Option("--live/--no-live", help="On a terminal, replay the steps.")] = True,
    quiet: Quiet = False,
) -> int:
    """Replay a run in the terminal as the live canvas showed it, and print its text.

    A run of several canvases, such as -n answers or the lengths that infill tries, shows one of them.
    """
    if not speed > 0:
        raise ConfigError(f"--speed {speed} must be above 0; 1 is as fast as the run was", field="--speed")
    from .terminal import is_live

    trace = _read(file, row)
    if is_live(live):
        from .live_view import Live

        length = block_length_of(trace.header["config"].get("window"))
        with Live(trace.canvas, lambda token: trace.pieces.get(token, b""), trace.prefix_length, 1.0, length) as view:
            start = time.perf_counter()
            for record, step in zip(trace.records, trace.steps(), strict=True):
                view.wait(start + record.seconds / speed)
                view.show(step)
            view.wait(start + trace.seconds / speed)
    put(trace.text, end="" if trace.text.endswith("\n") else "\n")
    return 0


@app.command(cls=Command, epilog=examples("diffucode trace plot run.jsonl --out run.html"))
def plot(
    file: File,
    out: Annotated[
        Path | None, typer.Option(metavar="NAME.html", help="The page's file.", show_default="the trace's name with .html")
    ] = None,
    row: Row = None,
    quiet: Quiet = False,
) -> int:
    """Make a page of a run, which replays it in a browser.

    The HTML page is one file, without network or libraries: the canvas step by step, with a slider, the arrow keys and the
    space bar, the tokens of each step, colours by commit order, and the score of each token.
    """
    from ..files import write_output
    from ..trace.page import check_page, page_of

    path = out or file.with_suffix(".html")
    check_page(path)
    write_output(path, page_of(_read(file, row)), flag="--out")
    put(path)
    return 0


@app.command(cls=Command, epilog=examples("diffucode trace animate run.jsonl --out demo.svg --speed 0.5"))
def animate(
    file: File,
    out: Annotated[
        Path | None, typer.Option(metavar="NAME.svg", help="The picture's file.", show_default="the trace's name with .svg")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The line at the top.", show_default="the model's name")] = None,
    speed: Annotated[float, typer.Option(help="Times as fast as the run.")] = 1.0,
    width: Annotated[int, typer.Option(min=24, max=400, help="Columns; longer lines are broken.")] = 72,
    row: Row = None,
    quiet: Quiet = False,
) -> int:
    """Make an animated SVG of a run, which plays in a browser and in a README.

    Masks are dots, tokens appear where they were committed, and the line below counts forwards and useful tokens. The
    picture holds no script and needs no font or network; it follows the reader's light or dark mode.
    """
    from ..files import write_output
    from ..trace.animation import animation_of, check_animation

    path = out or file.with_suffix(".svg")
    if not (speed > 0 and math.isfinite(speed)):
        raise ConfigError(f"--speed {speed} must be a number above 0; 1 is as fast as the run was", field="--speed")
    check_animation(path)
    picture = animation_of(_read(file, row), title=title, speed=speed, columns=width)
    write_output(path, picture, flag="--out")
    put(path)
    return 0


@app.command(cls=Command, epilog=examples("diffucode trace compare exact.jsonl fast.jsonl"))
def compare(
    one: File,
    other: File,
    rows: Annotated[
        str | None,
        typer.Option(metavar="N,M", help="The canvas of each file, if it has several.", show_default="those that were kept"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Compare two runs of one prompt, or of one text with holes: cost, text and commit order."""
    from ..trace.comparison import agreement, numbers
    from ..trace.reader import read_trace

    first, second = (read_trace(file, row) for file, row in zip((one, other), _two_rows(rows), strict=True))
    _check_alike(first, second)
    if as_json:
        found = [{"file": str(trace.path), **numbers(trace)} for trace in (first, second)]
        put_json({"traces": found, **agreement(first, second)})
    else:
        _print_comparison(first, second)
    return 0


def _read(file: Path, row: int | None) -> "Trace":
    """Read a trace. If the file has several canvases, a notice names the one that is shown."""
    from ..trace.reader import read_trace

    trace = read_trace(file, row)
    if trace.canvas_name:
        note(f"{file}: {trace.canvas_name}")
    return trace


def _two_rows(rows: str | None) -> tuple[int | None, int | None]:
    if rows is None:
        return None, None
    found = re.fullmatch(r"([0-9]{1,9}),([0-9]{1,9})", rows)
    if found is None:
        raise ConfigError(f"--rows must be N,M, a number for each of the two files, not {rows!r}", field="--rows")
    return int(found[1]), int(found[2])


def _check_alike(one: "Trace", other: "Trace") -> None:
    from ..errors import TraceError

    if one.header["tokenizer"] != other.header["tokenizer"]:
        raise TraceError(f"{other.path}: has another tokenizer than {one.path}; compare runs of models that share theirs")
    if one.texts != other.texts:
        what, whose = ("fills another text", "text") if other.layout else ("answers another prompt", "prompt")
        raise TraceError(f"{other.path}: {what} than {one.path}; compare runs of one {whose}")


def _print_comparison(one: "Trace", other: "Trace") -> None:
    """A table of both runs' numbers, and below it how they agree."""
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    from ..trace.comparison import agreement, numbers

    console = Console()
    label = Column(no_wrap=console.width >= 80)
    table = Table(label, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for trace in (one, other):
        row = f", canvas {trace.row}" if trace.rows > 1 else ""
        table.add_column(cell(trace.path.name) + row, justify="right", overflow="fold")
    a, b = (_cells(numbers(trace)) for trace in (one, other))
    for name in a:
        table.add_row(name, a[name], b[name])
    console.print(table)
    found = agreement(one, other)
    same = "the same" if found["same_text"] else f"differs; {100 * found['same_tokens']:.1f} % of the tokens are the same"
    lines = [f"text: {same}", f"first step that differs: {found['first_difference'] or 'none'}"]
    if found["order_agreement"] is not None:
        order = f"{100 * found['order_agreement']:.1f} % of the pairs of positions in the same order"
        lines.append(f"order: {order} (Kendall's tau {found['kendall_tau']:.2f})")
    console.print("Autoregressiveness and order count the tokens of the text and its end token.", style="dim")
    console.print("\n".join(lines), highlight=False)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """The rows of one run in the table."""
    from ..trace.comparison import KS

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    positions = row["positions_per_useful_token"]
    return {
        "model": cell(row["model"]),
        "rule": cell(row["rule"]),
        "window": cell(row["window"]),
        "forwards (NFE)": f"{row['nfe']}",
        "steps": f"{row['steps']}",
        "positions forwarded": f"{row['positions']}",
        "useful tokens": f"{row['useful_tokens']}",
        "useful tokens per forward": f"{row['tokens_per_forward']:.2f}",
        "positions per useful token": "-" if positions is None else f"{positions:.1f}",
        "useful tokens per second": f"{row['useful_tokens_per_second']:.1f}",
        "tokens remasked": f"{row['remasked']}",
        "masks inserted, deleted": f"{row['inserted']}, {row['deleted']}",
        **{f"local autoregressiveness@{k}": share(row["local_autoregressiveness"][str(k)]) for k in KS},
        **{f"global autoregressiveness@{k}": share(row["global_autoregressiveness"][str(k)]) for k in KS},
    }
