"""`diffucode eval`: measure pass@k on a task file, and its cost."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import HOLES, GenerationConfig
from ..errors import ConfigError, TraceError
from . import options
from .command import Command, examples
from .output import put_json
from .terminal import code_of

if TYPE_CHECKING:
    from ..evaluation import Result, Summary
    from ..tasks import Task


TasksFile = Annotated[Path, typer.Argument(help="A task file of HumanEval, MBPP or EvalPlus (JSONL).")]
Samples = Annotated[int, typer.Option("--samples", "-n", min=1, help="Answers to each task.")]
K = Annotated[list[int] | None, typer.Option("-k", min=1, help="Also print pass@k. Repeatable.", show_default="1")]
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
    samples: Samples = 1,
    k: K = None,
    limit: Limit = None,
    out: Out = None,
    timeout: Timeout = 5.0,
    memory: Memory = 1024,
    allow_code_execution: options.AllowCodeExecution = False,
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
    quiet: options.Quiet = False,
    trace: TraceFolder = None,
) -> int:
    """Measure how many tasks the model solves (pass@k), and at what cost.

    The code of each answer (its code block, if it has one) is run with the task's tests in a separate process. Rows with a
    suffix, as HumanEval-infilling has them, are filled in between prompt and suffix. Without --seed, the seed is 0.
    """
    from ..tasks import read_tasks

    options.require_code_execution(allow_code_execution, "eval")
    every = read_tasks(tasks)
    config = options.decoding_config(context, HOLES if every[0].suffix is not None else None)
    return _evaluate(context, every, replace(config, seed=config.seed or 0))


def _evaluate(context: typer.Context, every: "list[Task]", config: GenerationConfig) -> int:
    from ..evaluation import Limits, Summary, Traces, evaluate
    from ..evaluation.results_file import ResultsFile, check_results_file, identity
    from .model_option import open_model

    given = context.params
    samples, ks, folder = given["samples"], sorted({1, *(given["k"] or [])}), given["trace"]
    limits = Limits(timeout=given["timeout"], memory=given["memory"])
    _check(samples, ks, config)
    if given["out"]:
        check_results_file(given["out"])
    tasks = every[: given["limit"]]
    if folder:
        _make(folder)
    name, model, tokenizer, config = open_model(context, config, verbose=True)
    chosen = {(task.id, sample) for task in tasks for sample in range(samples)}
    about = identity(name, model, every, config, limits)
    with ResultsFile(given["out"], about) if given["out"] else nullcontext() as file:
        found = {(result.task_id, result.sample): result for result in (file.results if file else ())}
        results = {key: result for key, result in found.items() if key in chosen}
        traces = Traces(folder, name) if folder else None
        coming = evaluate(model, tokenizer, tasks, config, samples=samples, limits=limits, done=results, traces=traces)
        stop = _collect(coming, results, len(chosen), file.add if file else None)
    summary = Summary.of(list(results.values()), ks)
    if given["as_json"]:
        run = {"samples": samples, "model": name, "config": config.to_dict(), "interrupted": stop is not None}
        run |= {} if every[0].suffix is None else {"benchmark": "infilling"}
        put_json({**summary.to_dict(), **run})
    else:
        _print_table(summary, name if every[0].suffix is None else f"{name}, infilling")
    return code_of(stop) if stop else 0


def _check(samples: int, ks: list[int], config: GenerationConfig) -> None:
    if ks[-1] > samples:
        raise ConfigError(f"-k {ks[-1]} needs at least as many answers to each task; add --samples {ks[-1]}", field="-k")
    if samples > 1 and config.temperature == 0:
        raise ConfigError(
            f"temperature 0 gives the same answer {samples} times; set it above 0, or remove --samples", field="temperature"
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise TraceError(f"--trace {folder}: cannot create this folder ({error.strerror or error})") from None


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


def _print_table(summary: "Summary", name: str) -> None:
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
        "forwards per answer (NFE)": f"{summary.nfe:.2f}",
        **summary.stats.lines(),
        "unresolved masks": f"{summary.unresolved_masks}",
    }
    for label, value in rows.items():
        table.add_row(label, value)
    Console().print(table)
