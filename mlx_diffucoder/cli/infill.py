"""`diffucode infill`: fill the holes in a file."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES, GenerationConfig
from ..formatting import visible
from ..infilling.editor import read_request
from ..infilling.file import HoleFile, check_replaceable, cut, diff_of, name_of, named, newline_of, read_bytes, replace_file
from . import options
from .command import Command, examples
from .terminal import print_numbers, put_bytes, put_json

if TYPE_CHECKING:
    from ..infilling.fill import Filled

in_holes = options.panel("Holes")
FilePath = Annotated[Path, typer.Argument(help="The file; - is stdin, also for an editor's JSON.")]
Marker = Annotated[str, in_holes(help="The text that marks a hole; <FILL:12> is 12 tokens.")]
At = Annotated[str | None, in_holes(metavar="LINE[:COL]", help="Put a hole here, or at the line's end.")]
Lines = Annotated[str | None, in_holes(metavar="A-B", help="Replace these lines by a hole.")]
Instruction = Annotated[str | None, in_holes(help="What to write: a message before the text.")]
Around = Annotated[int, in_holes("--context", min=0, help="Tokens of text to show on each side of a hole.")]
Tries = Annotated[int, in_holes(min=1, max=24, help="Texts of different lengths to compare; 1 trusts the model.")]
Diff = Annotated[bool, options.in_output("--diff", help="Print the changes instead of the file.")]
Write = Annotated[bool, options.in_output("--write", help="Replace the file.")]
Backup = Annotated[str | None, options.in_output(metavar="SUFFIX", help="With --write: keep the old file with this suffix.")]

FOUND = ("holes", "score", "lengths", "agreed", "tried", "kept", "seen")
"""The fields of `Filled` that `--json` prints."""

app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode infill area.py -m pocket --diff"))
def infill(
    context: typer.Context,
    file: FilePath,
    model: options.Model = None,
    adapter: options.Adapter = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    marker: Marker = "<FILL>",
    at: At = None,
    lines: Lines = None,
    instruction: Instruction = None,
    around: Around = 512,
    tries: Tries = 8,
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    max_tokens: options.MaxTokens = 64,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: options.Seed = None,
    system: options.System = None,
    ban_tokens: options.BanTokens = None,
    raw: options.Raw = False,
    steps: options.Steps = None,
    alg: options.Algorithm = "entropy",
    alg_temp: options.AlgorithmTemperature = 0.0,
    eps: options.Eps = 1e-3,
    diff: Diff = False,
    write: Write = False,
    backup: Backup = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    tile: options.Tile = 32,
    quiet: options.Quiet = False,
    trace: options.TraceOut = None,
) -> int:
    """Fill the holes in a file, all together, each with the text around it in view.

    Mark a hole with <FILL>, or point at it with --at or --lines. You need not give a length: several are tried, up to
    --max-tokens. The text outside the holes does not change. An editor sends {"prefix": ..., "suffix": ...} or
    {"parts": ["a = ", null, ...]} on stdin, with - for the file, and gets JSON back.
    """
    options.refuse_idle(context, "--write", ["backup"], given=write)
    options.refuse_idle(context, "-v or --json", ["tile"], given=verbose or as_json or str(context.params["file"]) == "-")
    return _infill(context.params, options.decoding_config(context, HOLES))


def _infill(given: dict[str, Any], config: GenerationConfig) -> int:
    path, trace_file = given["file"], given["trace"]
    _check(given)
    data = read_bytes(path)
    request = read_request(data) if name_of(path) == "stdin" else None
    file = None if request else cut(name_of(path), data, given["marker"], given["at"], given["lines"])
    parts, message = request or (file.parts if file else [], None)
    instruction = given["instruction"] or message
    from ..infilling.fill import check_settings, fill
    from ..run import stats_of
    from ..trace.writer import trace_writer
    from .model_option import ModelOption, load_named
    from .progress import waiting

    shown = {"instruction": instruction, "context": given["around"], "tries": given["tries"]}
    check_settings(config, *shown.values())
    name, model, tokenizer = load_named(ModelOption.of(given), dtype=given["dtype"], adapter=given["adapter"])
    start = time.perf_counter()
    with waiting("filling"), named(name_of(path)), trace_writer(trace_file, tokenizer, config, name) as trace:
        filled = fill(model, tokenizer, parts, config, **shown, trace=trace)
    stats = stats_of(filled, time.perf_counter() - start, given["tile"])
    report = {key: getattr(filled, key) for key in FOUND}
    report |= {"model": name, **stats.to_dict(), "config": config.to_dict()}
    if file is None:
        newline = newline_of("".join(part for part in parts if isinstance(part, str)).encode("utf-8", "replace"))
        put_json(report | {"holes": [text.replace("\n", newline) for text in filled.holes]})
    else:
        _put_out(file, file.filled(filled.holes), report, given)
    if given["verbose"]:
        print_numbers({**_lines(filled), **stats.lines()})
    return 0


def _check(given: dict[str, Any]) -> None:
    """Raise an error for options that do not go together, or a file that cannot be written."""
    if given["write"]:
        check_replaceable(given["file"], given["backup"])
    if given["trace"]:
        from ..trace.writer import check_trace

        check_trace(given["trace"])


def _put_out(file: HoleFile, after: bytes, report: dict[str, Any], given: dict[str, Any]) -> None:
    """Replace the file, or print it, its changes, or JSON."""
    if given["write"]:
        replace_file(given["file"], file.data, after, given["backup"])
    if given["as_json"]:
        put_json({"text": after.decode(file.encoding), **report})
    elif given["diff"]:
        print_diff(file, after)
    elif not given["write"]:
        put_bytes(after, file.encoding)


def _lines(filled: "Filled") -> dict[str, str]:
    """What `-v` prints of filled holes, besides the numbers of every run."""
    return {
        "text shown to the model": f"{filled.seen} tokens around {len(filled.holes)} hole{'s'[: len(filled.holes) > 1]}",
        "canvases tried": f"{filled.tried}{', the model told where the text ends' if filled.agreed else ''}",
        "tokens in the holes": ", ".join(map(str, filled.lengths)),
        "mean log-probability": f"{filled.score:.3f}",
    }


COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def print_diff(file: HoleFile, after: bytes) -> None:
    """Print the changes: in colours on a terminal, and as `patch` reads them through a pipe."""
    text = diff_of(file, after)
    if not sys.stdout.isatty():
        put_bytes(text.encode(file.encoding, "surrogateescape"), file.encoding)  # the name may be no text
        return
    from rich.console import Console
    from rich.text import Text

    for line in text.splitlines():
        Console().print(Text(visible(line), style=COLOURS.get(line[:1], "")))
