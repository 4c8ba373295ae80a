"""`diffucode eval`: measure pass@k on a task file, and its cost."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES, GenerationConfig
from ..errors import ConfigError
from . import options
from .cluster import Cluster, machines_of
from .command import Command, examples, options_of
from .terminal import code_of, note, put, put_json

if TYPE_CHECKING:
    from ..cluster.machines import Machines
    from ..evaluation import Limits, Result, Summary
    from ..evaluation.answers import Answers
    from ..tasks import Task


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

WITH_SAMPLES = {
    *("tasks", "samples", "no_extract", "k", "only", "skip", "limit", "out"),
    *("timeout", "memory", "allow_code_execution", "sandbox", "as_json", "quiet"),
}
"""The parameters that have a meaning where no model answers."""

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
    cluster: Cluster = None,
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
    from ..evaluation.answers import choose_tasks
    from ..evaluation.orders import CONFIDENCE, ORDERS
    from ..evaluation.results_file import check_results_file
    from ..tasks import read_tasks

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
    out = given["out"]  # of two orders, `results-confidence.jsonl` for `results.jsonl`
    files = {name: out and out.with_stem(out.stem + f"-{name}" * orders) for name in (ORDERS if orders else ("",))}
    for file in filter(None, files.values()):
        check_results_file(file)
    tasks = choose_tasks(every, given["only"] or (), given["skip"] or (), given["tasks"])[: given["limit"]]
    with machines_of(given) as machines:
        if given["samples"]:
            runs = {"": _of_file(context, every, tasks, limits, ks[-1])}
        else:
            runs = _of_model(context, tasks, config, limits, ks[-1], machines)
        found, stop = _score(runs, files, every, limits, given, machines)
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


def _of_model(
    context: typer.Context,
    tasks: "Sequence[Task]",
    config: GenerationConfig,
    limits: "Limits",
    k: int,
    machines: "Machines | None",
) -> "dict[str, Answers]":
    """Answers of a model: by `ORDERS`, or by "" where they have one order."""
    from ..evaluation.answers import Answers
    from ..evaluation.orders import ORDERS, in_both_orders
    from ..trace.writer import make_folder
    from .model_option import open_model

    given = context.params
    samples, folder, orders = given["num_samples"], given["trace"], given["compare_orders"]
    if k > samples:
        raise ConfigError(f"-k {k} needs at least as many answers to each task; add --num-samples {k}", field="-k")
    if samples > 1 and config.temperature == 0:
        same = f"temperature 0 gives the same answer {samples} times"
        raise ConfigError(f"{same}; set it above 0, or remove --num-samples", field="temperature")
    if given["no_extract"]:
        raise ConfigError("--no-extract is for answers from a file; add --samples FILE", field="--no-extract")
    folders = {name: folder and folder / name for name in (ORDERS if orders else ("",))}
    for one in filter(None, (folder, *folders.values())):
        make_folder(one)
    name, model, tokenizer, config = open_model(context, config, verbose=True, lazy=machines is not None)
    if orders and tokenizer.sizes:
        about = f"{model.family.name} models, whose canvas changes its length"
        raise ConfigError(f"--compare-orders is not for {about}", field="--compare-orders")
    configs = in_both_orders(config, model.shift) if orders else {"": config}
    runs = {
        order: Answers.from_model(name, model, tokenizer, own, tasks, samples=samples, limits=limits, traces=folders[order])
        for order, own in configs.items()
    }
    if machines:
        from ..cluster.evaluation import limits_there, spread

        opened, there = (name, model, tokenizer, given["adapter"]), limits_there(limits, given["sandbox"])
        runs = spread(machines, runs, configs, opened, tasks, samples, there)
    return runs


def _of_file(context: typer.Context, every: "Sequence[Task]", tasks: "Sequence[Task]", limits: "Limits", k: int) -> "Answers":
    """The answers in a file. Ids without a task, and tasks without an answer, are named on stderr."""
    from ..evaluation.answers import Answers

    for option in options_of(context.command):
        source = context.get_parameter_source(option.parameter)
        if option.parameter not in WITH_SAMPLES and source and source.name == "COMMANDLINE":
            name = option.names[0]
            raise ConfigError(f"{name} is for answers of a model; remove it, or --samples", field=name)
    path, extract = context.params["samples"], not context.params["no_extract"]
    answers = Answers.from_file(path, every, tasks, limits=limits, extract=extract)
    most, missing, unknown = answers.report.values()
    if unknown:
        note(f"note: {context.params['tasks']} has no task for these ids in {path}: {_some(unknown)}")
    if missing:
        note(f"note: {path} has no answer to these tasks, which are not counted: {_some(missing)}")
    if k > most:
        raise ConfigError(f"-k {k} needs at least as many answers to each task; {path} has at most {most}")
    return answers


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(ids[:10]) + more


def _score(
    runs: "Mapping[str, Answers]",
    files: Mapping[str, Path | None],
    every: "Sequence[Task]",
    limits: "Limits",
    given: dict[str, Any],
    machines: "Machines | None",
) -> "tuple[dict[str, Sequence[Result]], KeyboardInterrupt | None]":
    """The results of each run, and the Ctrl-C or SIGTERM that stopped them, if one did: the runs after it have their file's."""
    from ..evaluation.results_file import ResultsFile, identity
    from .progress import counting

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
            try:
                with counting(f"evaluating, {name}" if name else "evaluating", len(answers.keys), machines or "") as advance:
                    advance(len(results))
                    for result in coming if stop is None else ():
                        if file:
                            file.add(result)
                        results[result.task_id, result.sample] = result
                        advance(1)
            except KeyboardInterrupt as stopped:
                stop = stopped
        found[name] = list(results.values())
    return found, stop


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
    for line in difference.lines():
        put(line)


def _print_table(name: str, summaries: "Mapping[str, Summary]", *, costs: bool) -> None:
    """Print a column for each run."""
    from rich.console import Console
    from rich.table import Column, Table

    compared = len(summaries) > 1
    heads = [Column(order) for order in summaries]
    table = Table(Column(justify="right"), *heads, title=name, show_header=compared)
    columns = [summary.lines(costs=costs) for summary in summaries.values()]
    for label in columns[0]:
        table.add_row(label, *(column.get(label, "") for column in columns))
    Console().print(table)
