"""`diffucode eval`: measure pass@k on a task file, and its cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES
from ..errors import ConfigError, TaskError, did_you_mean
from . import options
from .command import Command, examples
from .output import put, put_json
from .terminal import code_of

if TYPE_CHECKING:
    from ..evaluation import Limits, Result, Summary
    from ..tasks import Task
    from .eval_answers import Answers


TasksFile = Annotated[Path, typer.Argument(help="A task file of HumanEval, MBPP or EvalPlus; rows with a suffix are holes.")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n", min=1, help="Answers to each task.")]
Samples = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Score the answers in this file instead of a model's: JSON lines as human-eval has them."),
]
NoExtract = Annotated[bool, typer.Option("--no-extract", help="With --samples: take the text as it is.")]
K = Annotated[list[int] | None, typer.Option("-k", min=1, help="Also print pass@k. Repeatable.", show_default="1")]
Only = Annotated[list[str] | None, typer.Option(metavar="ID", help="Use only the task with this id; repeatable.")]
Skip = Annotated[list[str] | None, typer.Option(metavar="ID", help="Leave out the task with this id; repeatable.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only this many tasks, from the first on.")]
Out = Annotated[Path | None, typer.Option(help="Write results to this JSONL file, and continue a stopped run from it.")]
Timeout = Annotated[float, typer.Option(help="Seconds that each program may run.")]
Memory = Annotated[int, typer.Option(help="MB that each program may use; macOS sets no limit.")]
CompareOrders = Annotated[
    bool,
    options.in_decoding(
        "--compare-orders", help="Answer from left to right and by confidence, and compare; the options are those of the second."
    ),
]
TraceFolder = Annotated[
    Path | None, options.in_output(metavar="FOLDER", help="Write the steps of each answer to a file in this folder.")
]

app = typer.Typer()


@app.command(
    "eval",
    cls=Command,
    epilog=examples(
        "diffucode eval tasks.jsonl -m pocket --allow-code-execution",
        "diffucode eval tasks.jsonl -n 10 -k 5 --temp 0.4 --allow-code-execution",
        "diffucode eval HumanEval.jsonl.gz --samples s.jsonl --allow-code-execution",
        "diffucode eval tasks.jsonl -m pocket --compare-orders --allow-code-execution",
    ),
)
def evaluate(
    context: typer.Context,
    tasks: TasksFile,
    model: options.Model = None,
    dtype: options.Dtype = None,
    adapter: options.Adapter = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    num_samples: NumSamples = 1,
    samples: Samples = None,
    no_extract: NoExtract = False,
    k: K = None,
    only: Only = None,
    skip: Skip = None,
    limit: Limit = None,
    out: Out = None,
    timeout: Timeout = 5.0,
    memory: Memory = 1024,
    allow_code_execution: options.AllowCodeExecution = False,
    sandbox: options.Sandbox = "auto",
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    compare_orders: CompareOrders = False,
    max_tokens: options.UsualMaxTokens = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: options.Seed = 0,
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
    tuned: options.Tuned = True,
    as_json: options.Json = False,
    tile: options.Tile = 32,
    quiet: options.Quiet = False,
    trace: TraceFolder = None,
) -> int:
    """Measure how many tasks the model solves (pass@k), and at what cost."""
    return _evaluate(context)


def _evaluate(context: typer.Context) -> int:
    from ..evaluation import Summary
    from ..evaluation.orders import CONFIDENCE
    from ..evaluation.results_file import check_results_file
    from ..tasks import read_tasks
    from .eval_answers import ORDERS, of_file, of_model

    given = context.params
    options.require_code_execution(given["allow_code_execution"], "eval")
    every = read_tasks(given["tasks"])
    infilling, orders = every[0].suffix is not None, given["compare_orders"] and not given["samples"]
    if orders and infilling:
        raise ConfigError("--compare-orders is for answers; these tasks are holes", field="--compare-orders")
    config = options.decoding_config(context, HOLES if infilling else CONFIDENCE if orders else None)
    if orders and config.rule == "leftmost":
        raise ConfigError("--compare-orders compares the rule leftmost with another; name that one", field="--rule")
    config = replace(config, seed=config.seed or 0)
    ks, limits = sorted({1, *(given["k"] or [])}), options.limits_of(given)
    files = {name: _file_of(given["out"], name) for name in (ORDERS if orders else ("",))}
    for file in filter(None, files.values()):
        check_results_file(file)
    tasks = _chosen(every, given)
    if given["samples"]:
        runs = {"": of_file(context, every, tasks, limits, ks[-1])}
    else:
        runs = of_model(context, tasks, config, limits, ks[-1])
    found, stop = _score(runs, files, every, limits, given)
    summaries = {name: Summary.of(results, ks, given["tile"]) for name, results in found.items()}
    if orders:
        _report_orders(summaries, found, runs, as_json=given["as_json"], interrupted=stop is not None)
    elif given["as_json"]:
        numbers = summaries[""].accuracy() if given["samples"] else summaries[""].to_dict()
        benchmark = {"benchmark": "infilling"} if infilling else {}
        put_json({**numbers, **runs[""].report, "interrupted": stop is not None, **benchmark})
    else:
        _print_table(runs[""].name + ", infilling" * infilling, summaries, costs=not given["samples"])
    return code_of(stop) if stop else 0


def _file_of(out: Path | None, order: str) -> Path | None:
    """The results file of a run; `results.jsonl` becomes `results-confidence.jsonl` where two orders are compared."""
    return out.with_name(f"{out.stem}-{order}{out.suffix}") if out and order else out


def _score(
    runs: "Mapping[str, Answers]",
    files: Mapping[str, Path | None],
    every: "Sequence[Task]",
    limits: "Limits",
    given: dict[str, Any],
) -> "tuple[dict[str, Sequence[Result]], KeyboardInterrupt | None]":
    """The results of each run, and the Ctrl-C or SIGTERM that stopped them, if one did: the runs after it have their file's."""
    from ..evaluation.results_file import ResultsFile, identity

    found: dict[str, Sequence[Result]] = {}
    stop: KeyboardInterrupt | None = None
    for name, answers in runs.items():
        about, path = identity(answers.source, every, limits, extract=not given["no_extract"]), files[name]
        with ResultsFile(path, about) if path else nullcontext() as file:
            results = {(result.task_id, result.sample): result for result in (file.results if file else ())}
            results = {key: result for key, result in results.items() if key in answers.keys}
            coming = answers.results(results)
            if not found:
                options.tell_sandbox(limits, given)
            stop = stop or _collect(coming, results, len(answers.keys), name, file.add if file else None)
        found[name] = list(results.values())
    return found, stop


def _chosen(tasks: "Sequence[Task]", given: Mapping[str, Any]) -> "Sequence[Task]":
    """The tasks that `--only`, `--skip` and `--limit` leave."""
    ids = [task.id for task in tasks]
    for flag in ("only", "skip"):
        for name in given[flag] or ():
            if name not in ids:
                raise TaskError(f"--{flag} {name}: {given['tasks']} has no task with this id{did_you_mean(name, ids)}")
    left = [task for task in tasks if task.id in (given["only"] or ids) and task.id not in (given["skip"] or ())]
    if not left:
        raise TaskError("--only and --skip leave no task; remove one of them")
    return left[: given["limit"]]


def _collect(
    coming: "Iterator[Result]",
    results: "dict[tuple[str, int], Result]",
    total: int,
    name: str,
    keep: "Callable[[Result], None] | None",
) -> KeyboardInterrupt | None:
    """Gather results as they come. Returns the Ctrl-C or SIGTERM that stopped it, if one did."""
    from .progress import counting

    try:
        with counting(f"evaluating, {name}" if name else "evaluating", total) as advance:
            advance(len(results))
            for result in coming:
                if keep:
                    keep(result)
                results[result.task_id, result.sample] = result
                advance(1)
    except KeyboardInterrupt as stop:
        return stop
    return None


def _report_orders(
    summaries: "Mapping[str, Summary]",
    found: "Mapping[str, Sequence[Result]]",
    runs: "Mapping[str, Answers]",
    *,
    as_json: bool,
    interrupted: bool,
) -> None:
    """Print both runs of `--compare-orders` and how they differ."""
    from ..evaluation.orders import Difference

    difference = Difference.of(*found.values())
    if as_json:
        orders = {name.replace("-", "_"): {**one.to_dict(), **runs[name].report} for name, one in summaries.items()}
        put_json({**orders, "difference": asdict(difference), "interrupted": interrupted})
        return
    _print_table(next(iter(runs.values())).name, summaries, costs=True)
    for name, answers in runs.items():
        put("{}: {rule} on {window}".format(name, **answers.report["config"]))
    put(f"passed: {difference.both} in both orders, {difference.neither} in neither")
    put(f"passed: {difference.only_left_to_right} only from left to right, {difference.only_confidence} only by confidence")
    if difference.points is not None and difference.interval is not None:
        low, high = difference.interval
        ends = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
        put(f"left to right gains {100 * difference.points:+.1f} points of pass@1 ({ends})")


def _print_table(name: str, summaries: "Mapping[str, Summary]", *, costs: bool) -> None:
    """Print a column for each run."""
    from rich.console import Console
    from rich.table import Column, Table

    compared = len(summaries) > 1
    heads = [Column(order) for order in summaries]
    table = Table(Column(justify="right"), *heads, title=name, show_header=compared)
    columns = [_cells(summary, costs=costs) for summary in summaries.values()]
    for label in columns[0]:
        table.add_row(label, *(column.get(label, "") for column in columns))
    Console().print(table)


def _cells(summary: "Summary", *, costs: bool) -> dict[str, str]:
    """The numbers of a run for people, by their label."""
    rows = {f"pass@{k}": "-" if value is None else f"{100 * value:.1f} %" for k, value in summary.pass_at.items()}
    if summary.interval:
        low, high = summary.interval
        rows["pass@1"] += f"  (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    rows |= {
        "tasks": f"{summary.tasks}",
        "answers passed": f"{summary.passed} of {summary.answers}",
        "failures": ", ".join(f"{kind} {count}" for kind, count in summary.failures.items() if count) or "none",
    }
    if costs:
        rows |= {
            "forwards per answer (NFE)": f"{summary.nfe:.2f}",
            **summary.stats.lines(),
            "unresolved masks": f"{summary.unresolved_masks}",
        }
    return rows
