"""`diffucode infill`: a file with holes in, the file with its holes filled out."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES, GenerationConfig
from ..errors import FileError
from ..infilling.file import Source, check_replaceable, cut, name_of, named, read_bytes, read_json_parts, replace_file
from .command import Command, examples
from .options import (
    Algorithm,
    AlgorithmTemperature,
    BanTokens,
    Dtype,
    Eps,
    Json,
    MaxTokens,
    Model,
    Preset,
    Quiet,
    Raw,
    Rule,
    Seed,
    Steps,
    System,
    Temperature,
    TopK,
    TopP,
    TraceOut,
    Verbose,
    Window,
    Yes,
    decoding_config,
)

if TYPE_CHECKING:
    from ..decoding.result import Stats
    from ..infilling.fill import Filled


app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode infill area.py -m pocket --diff"))
def infill(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file; - is stdin, also for an editor's JSON.", show_default=False)],
    model: Model = None,
    dtype: Dtype = None,
    yes: Yes = False,
    marker: Annotated[str, typer.Option(help="What stands in the file for a hole; <FILL:12> is one of 12 tokens.")] = "<FILL>",
    at: Annotated[str | None, typer.Option(metavar="LINE[:COL]", help="The hole is here, or at the line's end.")] = None,
    lines: Annotated[str | None, typer.Option(metavar="A-B", help="The hole is these lines.", show_default=False)] = None,
    instruction: Annotated[str | None, typer.Option(help="What to write, put before the text as a message.")] = None,
    around: Annotated[int, typer.Option("--context", min=0, help="Tokens of the text shown on each side of a hole.")] = 512,
    tries: Annotated[
        int, typer.Option(min=1, max=8, help="Lengths tried before every small one is; 1 takes the model at its word.")
    ] = 3,
    diff: Annotated[bool, typer.Option("--diff", help="Print what changes, not the file.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Replace the file.")] = False,
    backup: Annotated[str | None, typer.Option(metavar="SUFFIX", help="With --write: keep the old file under this name.")] = None,
    preset: Preset = None,
    rule: Rule = "auto",
    window: Window = "auto",
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    system: System = None,
    ban_tokens: BanTokens = None,
    raw: Raw = False,
    steps: Steps = None,
    alg: Algorithm = "entropy",
    alg_temp: AlgorithmTemperature = 0.0,
    eps: Eps = 1e-3,
    as_json: Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    trace: TraceOut = None,
) -> int:
    """Fill the holes in a file, all together, each seeing the text around it.

    A hole is written <FILL> in the file, or given by --at or --lines. How long its text is, is found; --max-tokens bounds
    it. What is outside the holes comes back byte for byte. An editor sends {"prefix": ..., "suffix": ...} or
    {"parts": ["a = ", null, ...]} on stdin, with - for the file, and gets JSON back.
    """
    config = decoding_config(context, HOLES)
    if backup is not None and not write:
        raise FileError("--backup keeps the file that --write replaces; give both")
    if write:
        check_replaceable(file, backup)
    if trace:
        from ..trace.writer import check_trace

        check_trace(trace)
    data = read_bytes(file)
    asked = read_json_parts(data) if name_of(file) == "stdin" else None
    source = None if asked else cut(name_of(file), data, marker, at, lines)
    parts, said = asked or (source.parts if source else [], None)
    instruction = instruction or said
    from ..infilling.fill import check_settings, fill
    from ..trace.writer import recording
    from .model_option import load_named
    from .progress import waiting

    check_settings(config, instruction, around, tries)
    name, network, tokenizer = load_named(model, yes=yes, dtype=dtype)
    start = time.perf_counter()
    with waiting("filling"), named(name_of(file)), recording(trace, tokenizer, config, name) as record:
        filled = fill(network, tokenizer, parts, config, instruction=instruction, context=around, tries=tries, record=record)
    run = _Run(name, config, filled, time.perf_counter() - start)
    after = source.filled(filled.holes) if source else b""
    if source and write:
        replace_file(file, source.data, after, backup)
    if source is None:
        run.print_json()
    elif as_json:
        run.print_json(text=after.decode(source.encoding))
    elif diff:
        print_diff(source, after)
    elif not write:
        sys.stdout.buffer.write(after)
        sys.stdout.buffer.flush()
    if verbose:
        run.print_numbers()
    return 0


@dataclass(frozen=True)
class _Run:
    """A filling and its numbers."""

    name: str
    config: GenerationConfig
    filled: "Filled"
    seconds: float

    @property
    def stats(self) -> "Stats":
        import mlx.core as mx

        from ..decoding.result import Stats

        return Stats(
            nfe=self.filled.nfe,
            positions=self.filled.positions,
            useful_tokens=self.filled.useful_tokens,
            seconds=self.seconds,
            peak_memory_bytes=mx.get_peak_memory(),
        )

    def print_json(self, **more: Any) -> None:
        """What `--json` prints, and what an editor gets."""
        filled = self.filled
        report = {
            **more,
            "holes": filled.holes,
            "score": filled.score,
            "lengths": filled.lengths,
            "agreed": filled.agreed,
            "tried": filled.tried,
            "kept": filled.kept,
            "seen": filled.seen,
            "model": self.name,
            **self.stats.to_dict(),
            "config": self.config.to_dict(),
        }
        print(json.dumps(report, ensure_ascii=False))

    def print_numbers(self) -> None:
        """What `-v` prints, on stderr."""
        from .terminal import print_numbers

        filled = self.filled
        lines = {
            "text shown to the model": f"{filled.seen} tokens around {len(filled.holes)} hole{'s'[: len(filled.holes) > 1]}",
            "canvases tried": f"{filled.tried}{', the model said where the text ends' if filled.agreed else ''}",
            "tokens in the holes": ", ".join(map(str, filled.lengths)),
            "mean log-probability": f"{filled.score:.3f}",
            **self.stats.lines(),
        }
        print_numbers(lines)


COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def print_diff(source: Source, after: bytes) -> None:
    """What changes, as `diff -u` has it: coloured on a terminal, and as `patch` reads it where it is piped."""
    import difflib

    before = source.data.decode(source.encoding)
    changes = difflib.unified_diff(_lines(before), _lines(after.decode(source.encoding)), source.name, source.name)
    text = "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in changes)
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(text.encode(source.encoding))
        sys.stdout.buffer.flush()
        return
    from rich.console import Console
    from rich.text import Text

    for line in text.splitlines():
        Console().print(Text(line, style=COLOURS.get(line[:1], "")))


def _lines(text: str) -> list[str]:
    """Lines as `patch` counts them: other characters that end a line in Python do not."""
    lines = text.split("\n")
    return [*(line + "\n" for line in lines[:-1]), *(lines[-1:] if lines[-1] else [])]
