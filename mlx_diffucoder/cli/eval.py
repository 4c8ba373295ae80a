"""`diffucode eval`: a task file in, pass@k and what it cost out."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import GenerationConfig
from ..errors import ConfigError, ExecutionError, TraceError
from .command import Command, examples
from .options import (
    OUTPUT,
    Adapter,
    Algorithm,
    AlgorithmTemperature,
    AllowCodeExecution,
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
    Tuned,
    Until,
    Window,
    Yes,
    decoding_config,
    wants_tuned,
)
from .terminal import code_of

if TYPE_CHECKING:
    from ..evaluation import Result, Summary


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
    tasks: Annotated[Path, typer.Argument(help="Tasks, JSONL: HumanEval's, MBPP's or EvalPlus's.", show_default=False)],
    model: Model = None,
    dtype: Dtype = None,
    adapter: Adapter = None,
    yes: Yes = False,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Answers to each task.")] = 1,
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Also print pass@k; repeatable.", show_default="1")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A results file, JSONL; a stopped run goes on from it.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each program.")] = 5.0,
    memory: Annotated[int, typer.Option(help="MB for each program; macOS ignores it.")] = 1024,
    allow_code_execution: AllowCodeExecution = False,
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
    tuned: Tuned = True,
    as_json: Json = False,
    quiet: Quiet = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write the steps of each answer into a file in this folder.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> int:
    """Measure pass@k, and what it costs.

    Code is taken from each answer (a fenced block, or the body) and run with the task's tests in a process of its own.
    Without --seed the seed is 0.
    """
    config = decoding_config(context)
    if not allow_code_execution:
        raise ExecutionError(
            "eval runs the code that the model writes on this machine, as you, within limits of time and memory but in no"
            " sandbox; if you accept that, add --allow-code-execution"
        )
    ks = sorted({1, *(k or [])})
    _check(samples, ks, config)
    config = replace(config, seed=config.seed or 0)
    from ..evaluation import Limits, Summary
    from ..tasks import read_tasks
    from .model_option import load_named, with_tuned_window

    limits = Limits(timeout=timeout, memory=memory)
    every = read_tasks(tasks)
    if trace:
        _make(trace)

    name, network, tokenizer = load_named(model, yes=yes, dtype=dtype, adapter=adapter)
    config = with_tuned_window(config, network, wanted=wants_tuned(context, tuned), verbose=True)
    from ..evaluation import Traces
    from ..evaluation import evaluate as run
    from ..evaluation.results_file import ResultsFile, identity

    chosen = {(task.id, sample) for task in every[:limit] for sample in range(samples)}
    with ResultsFile(out, identity(name, network, every, config, limits)) if out else nullcontext() as file:
        results = _chosen(file.results, chosen) if file else {}
        coming = run(
            *(network, tokenizer, every[:limit], config),
            samples=samples,
            limits=limits,
            done=results.keys(),
            traces=Traces(trace, name) if trace else None,
        )
        stop = _collect(coming, results, len(chosen), file.add if file else None)
    summary = Summary.of(list(results.values()), ks)
    if as_json:
        about = {"samples": samples, "model": name, "config": config.to_dict(), "interrupted": stop is not None}
        print(json.dumps({**summary.to_dict(), **about}, ensure_ascii=False))
    else:
        _print_table(summary, name)
    return code_of(stop) if stop else 0


def _check(samples: int, ks: list[int], config: GenerationConfig) -> None:
    if ks[-1] > samples:
        raise ConfigError(f"-k {ks[-1]} needs as many answers to each task; ask for them with --samples {ks[-1]}")
    if samples > 1 and config.temperature == 0:
        raise ConfigError(
            f"temperature 0 gives the same answer {samples} times; with --samples above 1 set it above 0", field="temperature"
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise TraceError(f"--trace {folder}: cannot be made into a folder ({error.strerror or error})") from None


def _chosen(found: "list[Result]", chosen: set[tuple[str, int]]) -> "dict[tuple[str, int], Result]":
    return {(result.task_id, result.sample): result for result in found if (result.task_id, result.sample) in chosen}


def _collect(
    coming: "Iterator[Result]",
    results: "dict[tuple[str, int], Result]",
    total: int,
    keep: "Callable[[Result], None] | None",
) -> KeyboardInterrupt | None:
    """Gather results as they come; returns what stopped it, where something did."""
    try:
        with _progress(total) as advance:
            advance(len(results))
            for result in coming:
                if keep:
                    keep(result)
                results[result.task_id, result.sample] = result
                advance(1)
    except KeyboardInterrupt as stop:
        return stop
    return None


def _progress(total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda count: None)
    from .progress import counting

    return counting("evaluating", total)


def _print_table(summary: "Summary", name: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for label, value in _rows(summary).items():
        table.add_row(label, value)
    Console().print(table)


def _rows(summary: "Summary") -> dict[str, Any]:
    rows = {f"pass@{k}": "-" if value is None else f"{100 * value:.1f} %" for k, value in summary.pass_at.items()}
    if summary.interval:
        low, high = summary.interval
        rows["pass@1"] += f"  (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    return {
        **rows,
        "tasks": f"{summary.tasks}",
        "answers passed": f"{summary.passed} of {summary.answers}",
        "failures": ", ".join(f"{kind} {count}" for kind, count in summary.failures.items() if count) or "none",
        "forwards an answer (NFE)": f"{summary.nfe:.2f}",
        **summary.stats.lines(),
        "unresolved masks": f"{summary.unresolved_masks}",
    }
