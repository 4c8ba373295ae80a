"""`diffucode trace`: runs that were written down with `--trace`, shown again, drawn and compared."""

import json
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from .command import Command, examples
from .options import Json, Quiet

if TYPE_CHECKING:
    from ..trace.run import Trace

app = typer.Typer(name="trace", help="Show, draw, animate and compare the runs that --trace recorded.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="What --trace wrote.", show_default=False)]
Row = Annotated[
    int | None,
    typer.Option(min=1, help="Of canvases that were denoised together, this one.", show_default="the one that was kept"),
]


@app.command(cls=Command, epilog=examples("diffucode trace show run.jsonl --speed 0.5"))
def show(
    file: File,
    speed: Annotated[float, typer.Option(help="How many times as fast as it was; inf shows the end.")] = 1.0,
    row: Row = None,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Show the steps, on a terminal.")] = True,
    quiet: Quiet = False,
) -> int:
    """Replay a run in the terminal, as it was to be seen live, and print its text.

    Of several canvases, the answers of -n or the lengths that infill tries, one is shown.
    """
    if not speed > 0:
        raise ConfigError(f"--speed {speed} must be above 0; 1 is as fast as it was")
    from .terminal import is_live

    trace = _read(file, row)
    if is_live(live):
        from .live_view import Live

        with Live(trace.canvas, lambda token: trace.pieces.get(token, b""), trace.given, share=1.0) as view:
            began = time.perf_counter()
            for record, step in zip(trace.records, trace.steps(), strict=True):
                view.wait(began + record.seconds / speed)
                view.show(step)
            view.wait(began + trace.seconds / speed)
    print(trace.text, end="" if trace.text.endswith("\n") else "\n")
    return 0


@app.command(cls=Command, epilog=examples("diffucode trace plot run.jsonl --out run.html"))
def plot(
    file: File,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="NAME",
            help="NAME.png, NAME.svg or NAME.html for one of them; a name without an ending for all three.",
            show_default="the trace's name without its ending",
        ),
    ] = None,
    row: Row = None,
    quiet: Quiet = False,
) -> int:
    """Draw a run: in which order it committed, tokens a step, confidence against distance, autoregressiveness.

    The page replays it in a browser, from this one file: a slider, arrow keys, the space bar.
    """
    from ..trace.picture import draw_trace, outputs, plotter_for

    trace = _read(file, row)
    paths = outputs(out or file.with_suffix(""))
    pyplot = plotter_for(paths)
    draw_trace(pyplot, trace, paths)
    for path in paths:
        print(path)
    return 0


@app.command(cls=Command, epilog=examples("diffucode trace animate run.jsonl --out demo.svg --speed 0.5"))
def animate(
    file: File,
    out: Annotated[
        Path | None,
        typer.Option(metavar="NAME.svg", help="The picture's file.", show_default="the trace's name with .svg"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The line at the top.", show_default="the model's name")] = None,
    speed: Annotated[float, typer.Option(help="How many times as fast as the run was.")] = 1.0,
    width: Annotated[int, typer.Option(min=24, max=400, help="Columns; longer lines are broken.")] = 72,
    row: Row = None,
    quiet: Quiet = False,
) -> int:
    """Make an animated SVG of a run, which plays in a browser and in a README.

    Masks are dots, tokens appear where they were committed, and the line below counts forwards and useful tokens. The
    picture holds no script and needs no font or network; it follows the reader's light or dark mode.
    """
    from ..files import write_output
    from ..trace.animation import animation_of, check_replaceable

    path = out or file.with_suffix(".svg")
    if not (speed > 0 and math.isfinite(speed)):
        raise ConfigError(f"--speed {speed} must be a number above 0; 1 is as fast as the run was")
    check_replaceable(path)
    picture = animation_of(_read(file, row), title=title, speed=speed, columns=width)
    write_output(path, picture, flag="--out")
    print(path)
    return 0


@app.command(cls=Command, epilog=examples("diffucode trace compare exact.jsonl fast.jsonl"))
def compare(
    one: File,
    other: File,
    rows: Annotated[
        str | None,
        typer.Option(metavar="N,M", help="Of canvases that were denoised together, these.", show_default="those that were kept"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Compare two runs of one prompt, or of one text with holes: cost, what they wrote, and in which order."""
    from ..trace.comparison import agreement, numbers, print_comparison
    from ..trace.reader import read_trace

    first, second = (read_trace(file, row) for file, row in zip((one, other), _two_rows(rows), strict=True))
    _check_alike(first, second)
    if as_json:
        found = [{"file": str(trace.path), **numbers(trace)} for trace in (first, second)]
        print(json.dumps({"traces": found, **agreement(first, second)}, ensure_ascii=False))
    else:
        print_comparison(first, second)
    return 0


def _read(file: Path, row: int | None) -> "Trace":
    """A trace; of several canvases, which it is of is said on stderr."""
    from ..trace.reader import read_trace

    trace = read_trace(file, row)
    if trace.which:
        print(f"{file}: {trace.which}", file=sys.stderr)
    return trace


def _two_rows(rows: str | None) -> tuple[int | None, int | None]:
    if rows is None:
        return None, None
    found = re.fullmatch(r"([0-9]{1,9}),([0-9]{1,9})", rows)
    if found is None:
        raise ConfigError(f"--rows must be N,M, a number for each of the two files, not {rows!r}")
    return int(found[1]), int(found[2])


def _check_alike(one: "Trace", other: "Trace") -> None:
    from ..errors import TraceError

    if one.header["tokenizer"] != other.header["tokenizer"]:
        raise TraceError(f"{other.path}: has another tokenizer than {one.path}; compare runs of models that share theirs")
    if one.around != other.around:
        what, whose = ("fills another text", "text") if other.frame else ("answers another prompt", "prompt")
        raise TraceError(f"{other.path}: {what} than {one.path}; compare runs of one {whose}")
