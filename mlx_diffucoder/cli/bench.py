"""`diffucode bench`: how fast a model is on this machine, what the machine can do, and predictions for other chips."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import BenchError
from ..files import check_output, write_output
from . import options
from .command import Command, examples
from .terminal import note, put, put_json

HERE = "here"
SUBCOMMANDS = {"--card": "card", "--predict": "predict", "--tune": "tune"}
"""The subcommands that replace an option of `bench`; `bench run` replaces the others."""

Prompt = Annotated[list[str] | None, typer.Option(help="A prompt to answer; repeatable.", show_default="three small functions")]
TunePrompt = Annotated[
    list[str] | None, typer.Option("--prompt", help="A prompt to answer; repeatable.", show_default="12 small functions")
]
Trials = Annotated[int, typer.Option(min=1, max=10**6, help="How often to measure each thing.")]
Delay = Annotated[float, typer.Option(min=0, max=3600, help="Seconds of rest before each trial.")]
Measure = Annotated[bool, typer.Option("--measure", help="Measure this machine's ceilings even if the table has them.")]

Shape = Annotated[
    str | None,
    options.in_model(help="Random weights of 7b, stable-diffcoder-8b, ... (see predict), or a checkpoint's shape."),
]
PredictedShape = Annotated[
    str, typer.Option(help="7b (DiffuCoder-7B), stable-diffcoder-8b, sdar-8b, coda-1.7b, llada-8b or open-dcoder-0.5b.")
]
Bits = Annotated[int | None, options.in_model(help="With --shape: bits a weight; 16 for floats.", show_default="4")]
ShapeLayers = Annotated[int | None, options.in_model(min=1, help="With --shape: fewer layers.", show_default="all")]
Widest = Annotated[int, typer.Option(min=1, max=4096, help="The most rows of a forward.")]
Baseline = Annotated[
    str | None,
    typer.Option(help="What mlx-lm runs: a folder or a cached Hub id.", show_default="Qwen2.5-Coder, or the same weights"),
]
Alone = Annotated[bool, typer.Option("--alone", help="Leave out mlx-lm and the reference decoder.")]
TokensPerForward = Annotated[
    float | None, options.in_advanced(min=1, help="With --shape: assume this number.", show_default="1, 2, 4 and 8")
]
Out = Annotated[Path | None, options.in_output(help="Write the results to this JSON file.")]


class BenchGroup(TyperGroup):
    """Names the subcommand to use when an option follows `bench`, as it could before there were subcommands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does. An option other than `--help` is wrong usage (exit code 2)."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            given = {arg.partition("=")[0] for arg in args}
            name = next((name for flag, name in SUBCOMMANDS.items() if flag in given), "run")
            ctx.fail(f"bench has subcommands now: use `bench {name}`")
        return list(super().parse_args(ctx, args))


app = typer.Typer(name="bench", cls=BenchGroup, no_args_is_help=True, help="Measure speed here, and predict it for other chips.")


@app.command(cls=Command, epilog=examples("diffucode bench run -m pocket --max-tokens 64"))
def run(
    context: typer.Context,
    model: options.Model = None,
    adapter: options.Adapter = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    shard: options.Shard = None,
    shape: Shape = None,
    bits: Bits = None,
    layers: ShapeLayers = None,
    prompt: Prompt = None,
    trials: Trials = 5,
    delay: Delay = 0.0,
    widest: Widest = 128,
    baseline: Baseline = None,
    alone: Alone = False,
    measure: Measure = False,
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: options.Seed = None,
    system: options.System = None,
    prefill: options.Prefill = "",
    until: options.Until = None,
    ban_tokens: options.BanTokens = None,
    raw: options.Raw = False,
    steps: options.Steps = None,
    alg: options.Algorithm = "entropy",
    alg_temp: options.AlgorithmTemperature = 0.0,
    eps: options.Eps = 1e-3,
    reference: options.Reference = False,
    tokens_per_forward: TokensPerForward = None,
    out: Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Measure how fast a model is on this machine.

    It measures the time of forwards by their rows, the parts of a step, and whole answers, each next to the most the
    chip can do. The same run measures the alternatives: mlx-lm, one token after the other, and the reference decoder.
    """
    return _run(context)


def _run(context: typer.Context) -> int:
    _check_run(context)
    from ..bench.baselines import folder_of
    from ..bench.ceilings import ceilings_here
    from ..bench.chip import read_card
    from ..bench.run import Plan, busy, measure
    from ..bench.tables import run_lines
    from .model_option import open_subject
    from .progress import waiting

    given = context.params
    config = options.decoding_config(context, {"max_tokens": given["max_tokens"]})
    plan = Plan(
        *(given["prompt"], config, given["widest"], given["trials"], given["delay"]),
        rate=given["tokens_per_forward"],
        baseline=given["baseline"],
        alone=given["alone"],
    )
    if out := given["out"]:
        check_output(out, '"program": "mlx_diffucoder', "a results file of bench run", flag="--out")
    if plan.baseline:
        folder_of(plan.baseline)
    subject, card = open_subject(given), read_card()
    ceilings = ceilings_here(card, waiting, measure=given["measure"])
    for warning in filter(None, [*card.warnings, busy()]):
        note(f"note: {warning}")
    results = measure(plan, subject, card, ceilings, waiting)
    text = json.dumps(results.report)
    try:  # what took minutes is not lost where one of the two cannot be written
        put(text if given["as_json"] else "\n".join(run_lines(results, card)), flush=True)
    finally:
        if out:
            write_output(out, text + "\n", flag="--out")
    return 0


@app.command(cls=Command, epilog=examples("diffucode bench card"))
def card(measure: Measure = False, as_json: options.Json = False, quiet: options.Quiet = False) -> int:
    """Show this machine's chip, memory and ceilings."""
    from ..bench.ceilings import ceilings_here
    from ..bench.chip import read_card
    from .progress import waiting

    found = read_card()
    ceilings = ceilings_here(found, waiting, measure=measure)
    if as_json:
        put(json.dumps({"card": asdict(found), "ceilings": asdict(ceilings), "warnings": found.warnings}))
        return 0
    put("\n".join([*found.lines(), *ceilings.lines()]))
    for warning in found.warnings:
        note(f"note: {warning}")
    return 0


@app.command(
    cls=Command,
    epilog=examples('diffucode bench predict "M4 Max" --bits 4', 'diffucode bench predict "M4 Max" --hosts 2 --link tb5'),
)
def predict(
    context: typer.Context,
    chip: Annotated[str, typer.Argument(help='"M5 Max", "M4 Max 32" (GPU cores), or "here".')],
    bits: Annotated[int, typer.Option(help="Bits a weight; 16 for floats.")] = 4,
    shape: PredictedShape = "7b",
    nfe: Annotated[int | None, typer.Option(min=1, help="Also for an answer of this many forwards.")] = None,
    positions: Annotated[int | None, typer.Option(min=1, help="With --nfe: their positions in all.")] = None,
    hosts: Annotated[int, typer.Option(min=1, max=64, help="Also for so many Macs that compute it together.")] = 1,
    link: Annotated[str | None, typer.Option(help="With --hosts: tb5, tbtcp or 10gbe.", show_default="tb5")] = None,
    measure: Measure = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Predict the speed of a model on a chip.

    The prediction follows from the chip's memory bandwidth and matmul rate, and from the tiles of 32 rows in which MLX
    multiplies. Each number of rows names the public measurements that it rests on. No model is run.
    """
    if chip != HERE and measure:
        raise BenchError(f"--measure measures this machine: use it with {HERE}, not with {chip!r}", field="--measure")
    from ..bench.ceilings import ceilings_here, ceilings_named
    from ..bench.chip import read_card
    from ..bench.links import predict_hosts
    from ..bench.roofline import predict_shape, work_of
    from ..bench.shapes import SHAPES
    from ..bench.tables import prediction_lines
    from .progress import waiting

    ceilings = ceilings_here(read_card(), waiting, measure=measure) if chip == HERE else ceilings_named(chip)
    options.refuse_idle(context, "--hosts 2 or more", ["link"], given=hosts > 1)
    prediction = predict_shape(ceilings, bits, nfe, positions, shape)
    if hosts > 1:
        prediction["together"] = predict_hosts(ceilings, work_of(shape, bits), SHAPES[shape].config, hosts, link or "tb5")
    put(json.dumps(prediction) if as_json else "\n".join(prediction_lines(prediction, ceilings)))
    return 0


@app.command(cls=Command, epilog=examples("diffucode bench tune -m pocket"))
def tune(
    context: typer.Context,
    model: options.Model = None,
    adapter: options.Adapter = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    prompt: TunePrompt = None,
    trials: Trials = 5,
    delay: Delay = 0.0,
    max_tokens: options.MaxTokens = 256,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    system: options.System = None,
    raw: options.Raw = False,
    alg: options.Algorithm = "entropy",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Choose the rows of a forward and the threshold for this machine and model, and store them.

    With the preset balanced, generate, chat and eval then use them for this model on this machine. Prompts are answered at
    temperature 0, and also in the order of confidence: the output says how much the order matters.
    """
    from ..bench.profiles import check_writable, save
    from ..bench.tables import tuning_lines
    from ..bench.tuning import default_prompts
    from ..bench.tuning import tune as tune_here
    from .model_option import open_subject
    from .progress import waiting

    config = options.decoding_config(context, {"max_tokens": context.params["max_tokens"]})
    check_writable()  # before a model is loaded
    found = tune_here(open_subject(context.params), prompt or default_prompts(), config, trials, delay, waiting)
    path = save(found.profile)
    put(json.dumps({"file": str(path), **vars(found.profile)}) if as_json else "\n".join(tuning_lines(found, path)))
    return 0


@app.command(cls=Command, epilog=examples("diffucode bench compare m1.json m4.json --pictures pictures"))
def compare(
    files: Annotated[list[Path], typer.Argument(help="Files written by bench run --out.")],
    pictures: Annotated[Path | None, options.in_output(help="Draw PNG and SVG into this folder.")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Compare results files.

    Prints the machines side by side: forwards, the parts of a step, and useful tokens/s. If a file measured something else
    than the first one, only its forwards are shown.
    """
    from ..bench.compare import comparable, comparison_lines, comparison_of
    from ..bench.pictures import draw
    from ..bench.report import read_reports

    reports = read_reports(files)
    drawn = draw(reports, comparable(reports), pictures) if pictures else []
    if as_json:
        put_json({"reports": comparison_of(reports), "pictures": [str(file) for file in drawn]})
        return 0
    put("\n".join(comparison_lines(reports, shutil.get_terminal_size((80, 24)).columns)))
    for file in drawn:
        note(f"drawn: {file}")
    return 0


def _check_run(context: typer.Context) -> None:
    """Raise `BenchError` for options that do not go together."""
    given = context.params
    model = context.get_parameter_source("model")
    if given["shape"] and model and model.name == "COMMANDLINE":
        raise BenchError("--shape and --model do not go together", field="--shape")
    if given["shape"] and given["adapter"]:
        raise BenchError("--shape and --adapter do not go together: the adapter needs its model", field="--adapter")
    if given["shape"] and given["shard"]:
        raise BenchError("--shape and --shard do not go together: processes read their parts from files", field="--shard")
    for name in () if given["shape"] else ("bits", "layers", "tokens_per_forward"):
        if given[name]:
            option = f"--{name.replace('_', '-')}"
            raise BenchError(f"{option} needs --shape: a checkpoint has its own", field=option)
    if given["alone"] and given["baseline"]:
        raise BenchError("--alone and --baseline do not go together", field="--alone")
