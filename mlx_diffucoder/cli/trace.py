"""`diffucode trace`: runs that were written down with `--trace`, shown again, drawn and compared."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..traces import Trace

app = typer.Typer(help="Show, draw and compare runs that --trace wrote down.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="What --trace wrote.", show_default=False)]


@app.command()
def show(
    file: File,
    speed: Annotated[float, typer.Option(help="How many times as fast as it was; inf shows the end.")] = 1.0,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Show the steps, on a terminal.")] = True,
) -> int:
    """Replay a run in the terminal, as it was to be seen live.

    Example: diffucode trace show run.jsonl --speed 0.5
    """
    if not speed > 0:
        raise ConfigError(f"--speed {speed} must be above 0; 1 is as fast as it was")
    from ..traces import read_trace
    from .terminal import is_live

    trace = read_trace(file)
    if is_live(live):
        from .live import Live

        with Live(trace.canvas, lambda token: trace.pieces.get(token, b""), trace.given, share=1.0) as view:
            began = time.perf_counter()
            for record, step in zip(trace.records, trace.steps(), strict=True):
                view.wait(began + record.seconds / speed)
                view.show(step)
            view.wait(began + trace.seconds / speed)
    print(trace.text, end="" if trace.text.endswith("\n") else "\n")
    return 0


@app.command()
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
) -> int:
    """Draw a run: in which order it committed, tokens a step, confidence against distance, autoregressiveness.

    The page replays it in a browser, from this one file: a slider, arrow keys, the space bar.

    Example: diffucode trace plot run.jsonl --out run.html
    """
    from ..traces import read_trace
    from .trace_picture import draw_trace, outputs, plotter_for

    trace = read_trace(file)
    paths = outputs(out or file.with_suffix(""))
    pyplot = plotter_for(paths)
    draw_trace(pyplot, trace, paths)
    for path in paths:
        print(path)
    return 0


@app.command()
def compare(
    one: File,
    other: File,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Compare two runs of one prompt: what they cost, whether they wrote the same, and in the same order.

    Example: diffucode trace compare exact.jsonl fast.jsonl
    """
    from ..traces import read_trace
    from .trace_comparison import agreement, numbers, print_comparison

    first, second = read_trace(one), read_trace(other)
    _check_alike(first, second)
    if as_json:
        rows = [{"file": str(trace.path), **numbers(trace)} for trace in (first, second)]
        print(json.dumps({"traces": rows, **agreement(first, second)}, ensure_ascii=False))
    else:
        print_comparison(first, second)
    return 0


def _check_alike(one: "Trace", other: "Trace") -> None:
    from ..errors import TraceError

    if one.header["tokenizer"] != other.header["tokenizer"]:
        raise TraceError(f"{other.path}: has another tokenizer than {one.path}; compare runs of models that share theirs")
    places = [trace.canvas.tokens[0][: trace.canvas.start].tolist() for trace in (one, other)]
    if places[0] != places[1]:
        raise TraceError(f"{other.path}: answers another prompt than {one.path}; compare runs of one prompt")
