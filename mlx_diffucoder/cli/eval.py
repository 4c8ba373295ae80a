"""`diffucode eval`: measure pass@k on a task file, and its cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES
from ..errors import TaskError, did_you_mean
from . import options
from .command import Command, examples
from .output import put_json
from .terminal import code_of

if TYPE_CHECKING:
    from ..evaluation import Result, Summary
    from ..tasks import Task


TasksFile = Annotated[Path, typer.Argument(help="A task file of HumanEval, MBPP or EvalPlus.")]
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
    tuned: options.Tuned = True,
    as_json: options.Json = False,
    tile: options.Tile = 32,
    quiet: options.Quiet = False,
    trace: TraceFolder = None,
) -> int:
    """Measure how many tasks the model solves (pass@k), and at what cost.

    The code in each answer is run with the task's tests. Rows with a suffix are filled in before it. Without --seed it is 0.
    """
    return _evaluate(context)


def _evaluate(context: typer.Context) -> int:
    from ..evaluation import Summary
    from ..evaluation.results_file import ResultsFile, check_results_file, identity
    from ..tasks import read_tasks
    from .eval_answers import of_file, of_model

    given = context.params
    options.require_code_execution(given["allow_code_execution"], "eval")
    every = read_tasks(given["tasks"])
    config = options.decoding_config(context, HOLES if every[0].suffix is not None else None)
    config = replace(config, seed=config.seed or 0)
    ks, limits = sorted({1, *(given["k"] or [])}), options.limits_of(given)
    if given["out"]:
        check_results_file(given["out"])
    tasks = _chosen(every, given)
    if given["samples"]:
        answers = of_file(context, every, tasks, limits, ks[-1])
    else:
        answers = of_model(context, tasks, config, limits, ks[-1])
    about = identity(answers.source, every, limits, extract=not given["no_extract"])
    with ResultsFile(given["out"], about) if given["out"] else nullcontext() as file:
        found = {(result.task_id, result.sample): result for result in (file.results if file else ())}
        results = {key: result for key, result in found.items() if key in answers.keys}
        coming = answers.results(results)
        options.tell_sandbox(limits, given)
        stop = _collect(coming, results, len(answers.keys), file.add if file else None)
    summary = Summary.of(list(results.values()), ks, given["tile"])
    infilling = every[0].suffix is not None
    if given["as_json"]:
        numbers = summary.accuracy() if given["samples"] else summary.to_dict()
        benchmark = {"benchmark": "infilling"} if infilling else {}
        put_json({**numbers, **answers.report, "interrupted": stop is not None, **benchmark})
    else:
        _print_table(summary, answers.name + ", infilling" * infilling, costs=not given["samples"])
    return code_of(stop) if stop else 0


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
    keep: "Callable[[Result], None] | None",
) -> KeyboardInterrupt | None:
    """Gather results as they come. Returns the Ctrl-C or SIGTERM that stopped it, if one did."""
    from .progress import counting

    try:
        with counting("evaluating", total) as advance:
            advance(len(results))
            for result in coming:
                if keep:
                    keep(result)
                results[result.task_id, result.sample] = result
                advance(1)
    except KeyboardInterrupt as stop:
        return stop
    return None


def _print_table(summary: "Summary", name: str, *, costs: bool) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column(justify="right"), Column(), title=name, show_header=False)
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
    for label, value in rows.items():
        table.add_row(label, value)
    Console().print(table)
