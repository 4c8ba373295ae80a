"""`diffucode compare`: compare checkpoints with a base on the same masked canvases."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import PRESETS, GenerationConfig
from ..errors import CheckpointError, ConfigError, ExecutionError
from ..formatting import format_bytes
from . import options
from .cluster import Cluster, machines_of
from .command import Command, examples
from .terminal import cell, put_json

if TYPE_CHECKING:
    from rich.table import Table

    from ..data import Text
    from ..divergence.kl import Divergence
    from ..divergence.masking import Masked
    from ..evaluation.compare import Checkpoint
    from ..evaluation.quality import Row
    from ..tasks import Task

in_pass = options.panel("Pass@1")
WIDEST = 1000  # columns: no table is wider
USED = ("seed", "draws", "dtype", "by_layer")
"""Parameters that `--json` repeats."""
MEASURES = ("KL,\nnats", "top-1,\n%", "order,\n%", "first,\n%")

BaseRevision = Annotated[str | None, options.in_model("--revision", help="The base's branch, tag or commit on the Hub.")]
Base = Annotated[
    str,
    typer.Argument(help="The checkpoint to compare with: a folder, a Hub id or pocket.", autocompletion=options.complete_model),
]
Others = Annotated[list[str], typer.Argument(help="One or more checkpoints to compare.", autocompletion=options.complete_model)]
Texts = Annotated[
    Path | None,
    typer.Option(
        help="JSONL with prompt and completion, messages, text, or tasks with solutions.", show_default="80 small functions"
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only this many texts and tasks, from the first on.")]
Ratio = Annotated[
    list[float] | None,
    typer.Option(help="The share of an answer to mask; then the rest is masked. Repeatable.", show_default="0.25, 0.5, 0.75, 1"),
]
Draws = Annotated[int, typer.Option(min=1, help="Pairs of masks for each ratio.")]
Seed = Annotated[int, typer.Option(min=0, help="The seed of the masks.")]
ByLayer = Annotated[
    bool | None,
    options.in_model("--by-layer/--whole", help="Hold one layer in memory at a time.", show_default="for models that do not fit"),
]
Tasks = Annotated[Path | None, in_pass(help="Also answer these tasks, as eval does.")]
Allow = Annotated[bool, in_pass("--allow-code-execution", help=options.CODE_EXECUTION)]
Sandbox = Annotated[str, in_pass(help=options.SANDBOX, autocompletion=options.among(options.SANDBOXES))]
MaxTokens = Annotated[int, in_pass(help="The longest answer, in tokens.")]
Preset = Annotated[str, in_pass(help="How to decode.", autocompletion=options.among(PRESETS))]
Picture = Annotated[Path | None, options.in_output(help="Draw quality against size into this file: .png, .svg, .pdf.")]

app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode compare pocket ./conversions/* --picture quality.png"))
def compare(
    context: typer.Context,
    base: Base,
    others: Others,
    texts: Texts = None,
    limit: Limit = None,
    ratio: Ratio = None,
    draws: Draws = 1,
    seed: Seed = 0,
    dtype: options.Dtype = None,
    by_layer: ByLayer = None,
    cluster: Cluster = None,
    revision: BaseRevision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    tasks: Tasks = None,
    allow_code_execution: Allow = False,
    sandbox: Sandbox = "auto",
    max_tokens: MaxTokens = 256,
    preset: Preset = "exact",
    picture: Picture = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Measure how far checkpoints are from a base.

    Both models fill the same masked texts. The tables show the KL divergence in nats, how often the most probable token is the
    same, how often two commits have the same order (0.5 is chance), and the perplexity.
    """
    return _compare(context)


def _compare(context: typer.Context) -> int:
    given = context.params
    tasks, picture = given["tasks"], given["picture"]
    config = GenerationConfig.preset(given["preset"], max_tokens=given["max_tokens"], seed=0)
    options.require_code_execution(given["allow_code_execution"] or not tasks, "--tasks")
    options.refuse_idle(context, "--tasks", ["sandbox", "max_tokens", "preset"], given=tasks is not None)
    from ..data import HELD_OUT, encode_samples, read_samples
    from ..divergence.masking import masked_canvases
    from ..evaluation.quality import check_picture, draw_picture
    from ..tasks import read_tasks

    ratios, pyplot = _checked(given["ratio"]), check_picture(picture) if picture else None
    samples = read_samples(given["texts"] or HELD_OUT, given["limit"])
    problems = read_tasks(tasks, infilling=False)[: given["limit"]] if tasks else []
    checkpoints = _open(given, whole=bool(problems))
    tokenizer = checkpoints[0].tokenizer
    encoded = encode_samples(samples, tokenizer, min(one.config.max_position_embeddings for one in checkpoints))
    canvases = masked_canvases(encoded, tokenizer.mask_id, ratios=ratios, draws=given["draws"], seed=given["seed"])
    rows = _rows(checkpoints, canvases, problems, config, given)
    try:  # what took minutes is not lost where one of the two cannot be written
        if given["as_json"]:
            used = {"texts": str(given["texts"] or "bundled"), **{name: given[name] for name in USED}}
            used |= {"tasks": str(tasks), "config": config.to_dict()} if tasks else {}
            put_json(_report(rows, encoded, canvases, used))
        else:
            _print_tables(rows, encoded, canvases)
    finally:
        if picture:
            draw_picture(pyplot, rows, picture)
    return 0


def _checked(ratios: Sequence[float] | None) -> Sequence[float]:
    from ..divergence.masking import RATIOS

    for ratio in ratios or ():
        if not 0.001 <= ratio <= 1:
            raise ConfigError(f"--ratio must be from 0.001 to 1, not {ratio:g}", field="--ratio")
    return ratios or RATIOS


def _open(given: dict[str, Any], *, whole: bool) -> "list[Checkpoint]":
    """The named checkpoints, each a different folder, all comparable with the first; with `whole` they must fit in memory."""
    from ..evaluation.compare import Checkpoint, check_comparable
    from ..loading import check_dtype
    from .model_option import ModelOption, folder_named
    from .progress import waiting

    check_dtype(dtype := given["dtype"])
    about = (given["refresh"], given["yes"])
    wanted = [ModelOption(given["base"], given["revision"], *about)]
    wanted += [ModelOption(name, None, *about) for name in given["others"]]
    names, folders = map(list, zip(*map(folder_named, wanted), strict=True))
    with waiting("reading headers"):
        seen: dict[Path, str] = {}
        for name, folder in zip(names, folders, strict=True):
            if (real := folder.resolve()) in seen:
                raise CheckpointError(f"{name}: is the same folder as {seen[real]}; name each checkpoint once")
            seen[real] = name
        opened = [Checkpoint.of(name, folder, dtype) for name, folder in zip(names, folders, strict=True)]
        for other in opened[1:]:
            check_comparable(opened[0], other)
    large = [one.name for one in opened if given["by_layer"] or not one.fits]
    if whole and large:
        text = f"{large[0]}: --tasks needs the whole model in memory; remove --tasks or --by-layer"
        raise ExecutionError(text, field="--by-layer" if given["by_layer"] else None)
    return opened


def _rows(
    checkpoints: "list[Checkpoint]",
    canvases: "list[Masked]",
    tasks: "list[Task]",
    config: GenerationConfig,
    given: dict[str, Any],
) -> "list[Row]":
    from ..evaluation.compare import compare as compare_checkpoints
    from ..evaluation.quality import answers_of, rows_of
    from .progress import counting

    first, *rest = checkpoints
    limits = options.limits_of(given) if tasks else None
    if limits:
        options.tell_sandbox(limits, given)
    with machines_of(given) as machines:
        compared: Any = compare_checkpoints
        answer = answers_of(tasks, config, limits) if tasks else None
        if machines:
            from ..cluster.compare import spread_answers, spread_compare
            from ..cluster.evaluation import limits_there

            compared = partial(spread_compare, machines)
            answer = spread_answers(machines, tasks, config, limits_there(limits, given["sandbox"])) if limits else None
        with counting("comparing", len(canvases) * len(checkpoints), machines or "") as advance:
            comparisons = list(compared(first, rest, canvases, by_layer=given["by_layer"], advance=advance))
        with counting("answering", len(tasks) * len(checkpoints), machines or "") as advance:
            return rows_of(checkpoints, comparisons, answer, advance)


def _report(rows: "list[Row]", texts: "list[Text]", canvases: "list[Masked]", used: dict[str, Any]) -> dict[str, Any]:
    import mlx.core as mx

    return {
        "base": {**rows[0].to_dict(), "perplexity": _base_perplexity(rows)},
        "checkpoints": [row.to_dict() for row in rows[1:]],
        "text_count": len(texts),
        "answer_tokens": sum(len(text.answer) for text in texts),
        "canvases": len(canvases),
        **used,
        "peak_memory_bytes": mx.get_peak_memory(),
        "peak_resident_bytes": _peak_resident(),
    }


def _base_perplexity(rows: "list[Row]") -> float:
    """The base's perplexity; every comparison holds it."""
    return next(row.comparison.overall.perplexity for row in rows if row.comparison)


def _peak_resident() -> int:
    """The most memory that this process used at once, in bytes."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage also counts the parent process
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _print_tables(rows: "list[Row]", texts: "list[Text]", canvases: "list[Masked]") -> None:
    """Print a row for each checkpoint, then one for each masked share."""
    from rich.console import Console

    tokens = sum(len(text.answer) for text in texts)
    console = Console()
    for table in (_summary(rows), _by_ratio(rows[1:])):
        needed = Console(width=WIDEST).measure(table).maximum
        Console(width=max(console.width, needed)).print(table)  # whole, also when the terminal is narrower
    console.print(
        f"{len(texts)} texts, {tokens} answer tokens, {len(canvases)} canvases. KL: from {cell(rows[0].label)} at masked"
        " positions, with its 95 % interval. top-1: the same most probable token. order: two masks are committed in the same"
        " order (50 is chance). first: the same first commit. perplexity: by the coupled estimator.",
        style="dim",
        highlight=False,
    )


def _summary(rows: "list[Row]") -> "Table":
    passed = rows[0].passed is not None
    table = _table("size", "bits per\nweight", *MEASURES, "perplex-\nity", *(["pass@1,\n%"] if passed else []))
    for row in rows:
        one = row.checkpoint
        cells = [cell(row.label), format_bytes(one.bytes_on_disk), f"{one.bits_per_weight:.2f}"]
        if row.comparison:
            mean = row.comparison.overall
            cells += [*_measures(mean), _perplexity(mean.other_perplexity)]
        else:
            cells += ["the base", "", "", "", _perplexity(_base_perplexity(rows))]
        if row.passed is not None and row.passed_interval:
            low, high = row.passed_interval
            cells.append(f"{100 * row.passed:.1f}\n[dim]{100 * low:.0f}–{100 * high:.0f}[/dim]")
        table.add_row(*cells)
    return table


def _by_ratio(rows: "list[Row]") -> "Table":
    table = _table("masked", *MEASURES, "perplex-\nity")
    for row in rows:
        for number, (ratio, mean) in enumerate(row.comparison.by_ratio.items() if row.comparison else ()):
            name = "" if number else cell(row.label)
            table.add_row(name, f"{100 * ratio:g} %", *_measures(mean, interval=False), _perplexity(mean.other_perplexity))
        table.add_section()
    return table


def _table(*columns: str) -> "Table":
    from rich import box
    from rich.table import Column, Table

    first = Column("checkpoint", overflow="fold", max_width=16)
    others = [Column(name, justify="right", no_wrap=True) for name in columns]
    return Table(first, *others, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _measures(mean: "Divergence", *, interval: bool = True) -> list[str]:
    low, high = mean.kl_interval
    kl = f"{mean.kl:.3g}" + (f"\n[dim]{low:.2g}–{high:.2g}[/dim]" if interval else "")
    order = "-" if mean.order is None else f"{100 * mean.order:.2f}"
    return [kl, f"{100 * mean.top1:.2f}", order, f"{100 * mean.first:.1f}"]


def _perplexity(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:.0f}"
