"""`diffucode bench`: how fast a model is here, what this machine can do, and what is predicted for others."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import PRESETS, GenerationConfig
from ..errors import BenchError, ConfigError
from ..formatting import format_bytes, format_seconds
from .bench_compare import compare_benches
from .command import Command, Group, examples, refuse_options
from .options import (
    Algorithm,
    AlgorithmTemperature,
    BanTokens,
    Dtype,
    Eps,
    Json,
    MaxTokens,
    Model,
    Prefill,
    Preset,
    Quiet,
    Raw,
    Reference,
    Rule,
    Seed,
    Steps,
    System,
    Temperature,
    TopK,
    TopP,
    Until,
    Window,
    Yes,
    decoding_config,
)

if TYPE_CHECKING:
    from ..bench.ceilings import Ceilings
    from ..bench.chip import Card
    from ..bench.roofline import Work
    from ..bench.subjects import Measured

HERE = "here"
BITS = (2, 3, 4, 5, 6, 8, 16)


app = typer.Typer(cls=Group, invoke_without_command=True, subcommand_metavar="[compare FILES...]")
app.command("compare", cls=Command, epilog=examples("diffucode bench compare m1.json m4.json --pictures pictures"))(
    compare_benches
)


@app.callback(epilog=examples("diffucode bench -m pocket --max-tokens 64", 'diffucode bench --predict "M4 Max" --bits 4'))
def bench(
    context: typer.Context,
    model: Model = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to write; repeatable.", show_default="three small functions")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help='Random weights, made in memory, of this shape: "7b", or that of a checkpoint.', show_default=False),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="For --shape and --predict: bits a weight, 16 for floats.", show_default="4")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="For --shape: fewer layers.", show_default="all")] = None,
    dtype: Dtype = None,
    widest: Annotated[int, typer.Option(min=1, help="The widest forward, in positions.")] = 512,
    trials: Annotated[int, typer.Option(min=1, help="How often each thing is measured.")] = 5,
    delay: Annotated[float, typer.Option(min=0, help="Seconds of rest before each trial.")] = 0.0,
    tokens_per_forward: Annotated[
        float | None,
        typer.Option(min=1, help="For --shape: how many tokens a forward commits, made up.", show_default="1, 2, 4 and 8"),
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(
            help="What mlx-lm runs beside it: a folder, or a Hub id in the cache.",
            show_default="the cached Qwen2.5-Coder of a 7B's size, or the same weights",
        ),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Without mlx-lm and the reference decoder beside it.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the results into this file, as JSON.", show_default=False)] = None,
    card: Annotated[bool, typer.Option("--card", help="Only print this machine's chip card.")] = False,
    predict: Annotated[
        str | None,
        typer.Option(
            help='Only print predicted times for a chip: "M5 Max", "M4 Max 32" (GPU cores) or "here".', show_default=False
        ),
    ] = None,
    nfe: Annotated[int | None, typer.Option(min=1, help="For --predict: forwards of a generation.", show_default=False)] = None,
    positions: Annotated[
        int | None, typer.Option(min=1, help="For --predict: positions it forwards in all.", show_default=False)
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose the window's width for this machine and model, and store it.")
    ] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine's ceilings, known or not.")] = False,
    preset: Preset = None,
    rule: Rule = "auto",
    window: Window = "auto",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    system: System = None,
    prefill: Prefill = "",
    until: Until = None,
    ban_tokens: BanTokens = None,
    raw: Raw = False,
    steps: Steps = None,
    alg: Algorithm = "entropy",
    alg_temp: AlgorithmTemperature = 0.0,
    eps: Eps = 1e-3,
    reference: Reference = False,
    as_json: Json = False,
    quiet: Quiet = False,
    yes: Yes = False,
) -> int:
    """Measure how fast a model is here.

    Forwards by their positions, where the time of a step goes, and whole generations, each beside the most the chip can do;
    and in the same run the alternatives: mlx-lm, one token after the other, and the reference decoder.
    """
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return 0
    config = decoding_config(context)
    if bits not in (None, *BITS):
        raise BenchError(f"--bits must be one of {', '.join(map(str, BITS))}, not {bits}")
    _check_together(nfe, positions)
    flags = {"--card": card, "--predict": predict is not None, "--shape": bool(shape), "--tune": tune}
    modes = [flag for flag, given in flags.items() if given]
    if shape and (source := context.get_parameter_source("model")) and source.name == "COMMANDLINE":
        modes.append("--model")
    if out and not shape and modes:
        modes.append("--out")
    if len(modes) > 1:
        raise BenchError(f"{modes[0]} and {modes[1]} do not go together")
    if card:
        return _print_card(measure=measure, as_json=as_json)
    if predict is not None:
        return _print_prediction(predict, bits or 4, (nfe, positions), measure=measure, as_json=as_json)
    if not shape and (bits or layers):
        raise BenchError(f"{'--bits' if bits else '--layers'} is for --shape: a checkpoint has its own")
    if not shape and tokens_per_forward:
        raise BenchError("--tokens-per-forward is for --shape: a checkpoint commits what it is sure of")
    if tune:
        return _tune(prompt, config, trials, delay, lambda: _checkpoint(model, dtype, yes=yes), as_json=as_json)
    if alone and peer:
        raise BenchError("--alone and --peer do not go together")
    from .measuring import Plan, measure_here

    plan = Plan(
        prompts=prompt,
        config=config,
        widest=widest,
        trials=trials,
        delay=delay,
        out=out,
        rate=tokens_per_forward,
        peer=peer,
        alone=alone,
        open=(lambda: _noise(shape, bits or 4, dtype, layers)) if shape else (lambda: _checkpoint(model, dtype, yes=yes)),
    )
    return measure_here(plan, measure=measure, as_json=as_json)


def _tune(
    prompts: list[str] | None,
    config: GenerationConfig,
    trials: int,
    delay: float,
    network: "Callable[[], Measured]",
    *,
    as_json: bool,
) -> int:
    own = PRESETS["balanced"]
    if (config.rule, config.window) != (own["rule"], own["window"]):
        raise BenchError("--tune chooses the window of each preset that slides: leave --preset, --rule and --window away")
    from ..bench.profiles import check_writable
    from .measuring import PROMPTS
    from .tuning import tune_here

    check_writable()  # before a model is loaded
    return tune_here(network(), prompts or list(PROMPTS), config, trials, delay, as_json=as_json)


def _check_together(nfe: int | None, positions: int | None) -> None:
    if (nfe is None) != (positions is None):
        raise BenchError("--nfe and --positions go together: how many forwards, and of how many positions in all")
    if nfe and positions and positions < nfe:
        raise BenchError(f"--positions must be at least --nfe, not {positions}: a forward has a position or more")


def _checkpoint(name: str | None, dtype: str | None, *, yes: bool) -> "Measured":
    from ..bench.subjects import Measured, check_fits
    from ..checkpoint import shards
    from .model_option import load_named

    def check(name: str, folder: Path) -> None:
        check_fits(name, sum(file.stat().st_size for file in shards(folder)))

    return Measured(*load_named(name, yes=yes, dtype=dtype, check=check), random=False)


def _noise(shape: str, bits: int, dtype: str | None, layers: int | None) -> "Measured":
    from ..bench.subjects import noise
    from ..loading import DTYPES
    from .progress import waiting

    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}", field="dtype")
    with waiting("drawing random weights"):
        return noise(shape, bits, dtype or "bfloat16", layers)


def _print_card(*, measure: bool, as_json: bool) -> int:
    from ..bench.chip import read_card

    card = read_card()
    found = ceilings_here(card, measure=measure)
    if as_json:
        print(json.dumps({"card": card.to_dict(), "ceilings": found.to_dict(), "warnings": card.warnings}))
        return 0
    print("\n".join([*card.lines(), *found.lines()]))
    for warning in card.warnings:
        print(f"note: {warning}", file=sys.stderr)
    return 0


def ceilings_here(card: "Card", *, measure: bool) -> "Ceilings":
    """This machine's ceilings: the table's where it has the chip, measured where it has not or that is asked for."""
    from ..bench.ceilings import ceilings_of
    from ..bench.ceilings import measure as measure_ceilings
    from .progress import waiting

    known = ceilings_of(card.chip, card.gpu_cores) if card.backend == "Metal" else None
    if known and not measure:
        return known
    if not known:
        print(f"{card.chip}: not in the table of chips; its ceilings are measured", file=sys.stderr)
    with waiting("measuring bandwidth and matmul"):
        return measure_ceilings(card.chip)


def _print_prediction(name: str, bits: int, generation: tuple[int | None, int | None], *, measure: bool, as_json: bool) -> int:
    from ..bench.ceilings import ceilings_named
    from ..bench.chip import read_card
    from ..bench.roofline import Work, checks, generation_seconds, predict
    from ..bench.shapes import SHAPES, bits_per_weight, parameters

    if name != HERE and measure:
        raise BenchError(f"--measure is of this machine: use it with --predict {HERE}, not {name!r}")
    ceilings = ceilings_here(read_card(), measure=measure) if name == HERE else ceilings_named(name)
    work = Work(parameters=parameters(SHAPES["7b"]), bits_per_weight=bits_per_weight(bits))
    said: dict[str, Any] = {"shape": "7b", "bits": bits, **predict(ceilings, work)}
    nfe, positions = generation
    if nfe and positions:
        seconds = generation_seconds(ceilings, work, nfe, positions)
        said["generation"] = {"nfe": nfe, "positions": positions, "seconds": seconds}
    said["published"] = [check.to_dict() for check in checks(ceilings.chip.partition(" (")[0])]
    if as_json:
        print(json.dumps(said))
        return 0
    print("\n".join(_table(said, ceilings, work)))
    for check in checks(ceilings.chip.partition(" (")[0]):
        print(check.line())
    return 0


def _table(said: dict[str, Any], ceilings: "Ceilings", work: "Work") -> list[str]:
    """The prediction for people."""
    lines = [
        f"PREDICTED, not measured: DiffuCoder-7B, {said['bits']} bits ({format_bytes(work.bytes)}), on {ceilings.chip}",
        *ceilings.lines(),
        f"{'overhead':10} "
        + (f"{format_seconds(ceilings.overhead)} a forward" if ceilings.overhead else "not known: lower bounds"),
        "",
        "positions   predicted ms   bound by",
    ]
    for row in said["forwards"]:
        lines.append(f"{row['positions']:9} {1e3 * row['seconds']:14.1f}   {row['bound_by']}")
    lines += [
        "",
        f"predicted: {said['free_positions']:.0f} positions in the time of reading the weights",
        f"predicted: {said['autoregressive_tokens_per_second']:.1f} tokens/s one token after the other",
        f"predicted: denoising is faster below {said['break_even_positions_per_useful_token']:.1f} positions per useful token",
    ]
    if one := said.get("generation"):
        lines.append(
            f"predicted: {format_seconds(one['seconds'])} for {one['nfe']} forwards of {one['positions']} positions in all"
        )
    if said["published"]:
        lines += ["", "the same model on what llama.cpp measured of Llama-2-7B (its constants are fitted to such rows):"]
    return lines
