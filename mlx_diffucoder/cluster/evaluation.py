"""`diffucode eval` over several machines: each answer is generated, and its code run, on one of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from ..config import GenerationConfig
from ..evaluation import Limits, Result
from ..evaluation.answers import Answers
from ..evaluation.run import evaluate_one, prompt_of
from ..models.transformer import DiffusionModel
from ..tasks import Task
from ..tokenizer import Tokenizer
from .machines import Machines
from .models import ModelRef, loaded


def spread(
    machines: Machines,
    runs: Mapping[str, Answers],
    configs: Mapping[str, GenerationConfig],
    opened: tuple[str, DiffusionModel, Tokenizer, str | None],
    tasks: Sequence[Task],
    samples: int,
    limits: Mapping[str, Any],
) -> dict[str, Answers]:
    """The answers of each run, which come from the machines of a cluster, in any order.

    Args:
        runs: as this machine would give them. Their model is not kept.
        configs: how to decode in each.
        opened: the model's name, the model, its tokenizer, and the name of an adapter.
        limits: from `limits_there`.

    Raises:
        TaskError, ConfigError: as `prompt_of`.
    """
    name, model, tokenizer, adapter = opened
    for task in tasks:  # one that is too long is found before any is answered
        for config in configs.values():
            prompt_of(model, tokenizer, task, config)
    ref = ModelRef.of(name, model, adapter)

    def results(config: GenerationConfig, done: Collection[tuple[str, int]]) -> Iterator[Result]:
        wanted = [(task, sample) for task in tasks for sample in range(samples) if (task.id, sample) not in done]
        return results_of(machines, ref, config, limits, wanted)

    return {name: replace(answers, results=partial(results, configs[name])) for name, answers in runs.items()}


def results_of(
    machines: Machines,
    ref: ModelRef,
    config: GenerationConfig,
    limits: Mapping[str, Any],
    wanted: Sequence[tuple[Task, int]],
) -> Iterator[Result]:
    """The results of a model's answers, in any order.

    Args:
        wanted: tasks, with the index of an answer.
    """
    calls = [partial(_result, ref, config, limits, task, sample) for task, sample in wanted]
    return (result for _, result in machines.results(calls))


def limits_there(limits: Limits, sandbox: str) -> dict[str, Any]:
    """The arguments of `Limits` on another machine. It must have a sandbox if this one has.

    Args:
        limits: here.
        sandbox: the mode that the user chose.
    """
    return {**asdict(limits), "sandbox": sandbox if limits.sandbox == "off" else "require"}


def _result(ref: ModelRef, config: GenerationConfig, limits: Mapping[str, Any], task: Task, sample: int) -> Result:
    """One answer, on a worker."""
    model, tokenizer = loaded(ref)
    return evaluate_one(model, tokenizer, task, sample, prompt_of(model, tokenizer, task, config), config, Limits(**limits))
