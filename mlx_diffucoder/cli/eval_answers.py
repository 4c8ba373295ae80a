"""Where the answers that `diffucode eval` scores come from: a model, or a file."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..config import GenerationConfig
from ..errors import ConfigError, TraceError
from .command import options_of
from .output import note

if TYPE_CHECKING:
    from ..evaluation import Limits, Result
    from ..tasks import Task
    from .model_option import Opened


@dataclass(frozen=True)
class Answers:
    """The answers to score.

    Attributes:
        name: of the model or the file.
        source: what stands about them in a results file.
        keys: task id and index of each.
        results: runs those that are not in the given keys.
        report: what `--json` adds.
    """

    name: str
    source: dict[str, Any]
    keys: set[tuple[str, int]]
    results: "Callable[[Collection[tuple[str, int]]], Iterator[Result]]"
    report: dict[str, Any]


ORDERS = ("left-to-right", "confidence")
"""The names of the two runs of `--compare-orders`."""


def of_model(
    context: typer.Context, tasks: "Sequence[Task]", config: GenerationConfig, limits: "Limits", k: int
) -> dict[str, Answers]:
    """Answers of a model, which are generated when they are asked for; by `ORDERS`, or by "" where they have one order.

    Raises:
        ConfigError: options do not go together.
        TraceError: the folder of traces cannot be created.
    """
    from ..evaluation.orders import left_to_right
    from .model_option import open_model

    given = context.params
    folder, orders = given["trace"], ORDERS if given["compare_orders"] else ()
    _check(given["num_samples"], k, config)
    if given["no_extract"]:
        raise ConfigError("--no-extract is for answers from a file; add --samples FILE", field="--no-extract")
    for name in ("", *orders) if folder else ():
        _make(folder / name)
    opened = open_model(context, config, verbose=True)
    configs = {"": opened.config}
    if orders and opened.tokenizer.sizes:
        raise ConfigError(
            f"--compare-orders is not for {opened.model.family.name} models, whose canvas changes its length",
            field="--compare-orders",
        )
    if orders:
        configs = {"left-to-right": left_to_right(opened.config, opened.model.shift), "confidence": opened.config}
    return {
        name: _of_config(opened._replace(config=own), given, tasks, limits, folder and folder / name)
        for name, own in configs.items()
    }


def _of_config(
    opened: "Opened", given: dict[str, Any], tasks: "Sequence[Task]", limits: "Limits", folder: Path | None
) -> Answers:
    """The answers of one configuration."""
    from ..evaluation import Traces, evaluate
    from ..evaluation.results_file import of_model as model_of

    name, model, tokenizer, config = opened
    count = given["num_samples"]
    traces = Traces(folder, name) if folder else None
    return Answers(
        name,
        model_of(name, model, config),
        {(task.id, sample) for task in tasks for sample in range(count)},
        lambda done: evaluate(model, tokenizer, tasks, config, samples=count, limits=limits, done=done, traces=traces),
        {"samples": count, "model": name, "config": config.to_dict()},
    )


WITH_SAMPLES = {
    *("tasks", "samples", "no_extract", "k", "only", "skip", "limit", "out"),
    *("timeout", "memory", "allow_code_execution", "sandbox", "as_json", "quiet"),
}
"""The parameters that have a meaning where no model answers."""


def of_file(context: typer.Context, every: "Sequence[Task]", tasks: "Sequence[Task]", limits: "Limits", k: int) -> Answers:
    """The answers in a file. Ids without a task, and tasks without an answer, are named on stderr.

    Raises:
        ConfigError: an option is for answers of a model, or there are fewer than `k` answers to each task.
        TaskError: as `read_samples`.
    """
    from ..evaluation.results_file import of_file as file_of
    from ..evaluation.samples import read_samples, score

    for option in options_of(context.command):
        source = context.get_parameter_source(option.parameter)
        if option.parameter not in WITH_SAMPLES and source and source.name == "COMMANDLINE":
            name = option.names[0]
            raise ConfigError(f"{name} is for answers of a model; remove it, or --samples", field=name)
    path, extract = context.params["samples"], not context.params["no_extract"]
    found, unknown = read_samples(path, every)
    chosen = {task.id for task in tasks}
    samples = [sample for sample in found if sample.task.id in chosen]
    counts = Counter(sample.task.id for sample in samples)
    missing = [task.id for task in tasks if task.id not in counts]
    if unknown:
        note(f"note: {context.params['tasks']} has no task for these ids in {path}: {_some(unknown)}")
    if missing:
        note(f"note: {path} has no answer to these tasks, which are not counted: {_some(missing)}")
    most = max(counts.values(), default=0)
    if k > most:
        raise ConfigError(f"-k {k} needs at least as many answers to each task; {path} has at most {most}")
    return Answers(
        str(path),
        file_of(path),
        {(sample.task.id, sample.number) for sample in samples},
        lambda done: score(samples, limits=limits, extract=extract, done=done),
        {"samples": most, "missing": missing, "unknown": unknown},
    )


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(ids[:10]) + more


def _check(samples: int, k: int, config: GenerationConfig) -> None:
    if k > samples:
        raise ConfigError(f"-k {k} needs at least as many answers to each task; add --num-samples {k}", field="-k")
    if samples > 1 and config.temperature == 0:
        raise ConfigError(
            f"temperature 0 gives the same answer {samples} times; set it above 0, or remove --num-samples", field="temperature"
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise TraceError(f"--trace {folder}: cannot create this folder ({error.strerror or error})") from None
