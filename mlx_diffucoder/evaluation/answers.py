"""The answers of a run: a model's, which are generated when they are asked for, or a file's."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import GenerationConfig
from ..errors import TaskError, did_you_mean
from ..models.transformer import DiffusionModel
from ..tasks import Task
from ..tokenizer import Tokenizer
from .execute import Limits
from .results_file import of_file, of_model
from .run import Result, Traces, evaluate
from .samples import read_samples, score


@dataclass(frozen=True)
class Answers:
    """The answers to score.

    Attributes:
        name: of the model or the file.
        source: what stands about them in a results file.
        keys: task id and index of each.
        results: scores those that are not in the given keys. Raises as `evaluate` or `score`.
        report: what JSON reports add about them.
    """

    name: str
    source: dict[str, Any]
    keys: set[tuple[str, int]]
    results: Callable[[Collection[tuple[str, int]]], Iterator[Result]]
    report: dict[str, Any]

    @classmethod
    def from_model(
        cls,
        name: str,
        model: DiffusionModel,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        tasks: Sequence[Task],
        *,
        samples: int,
        limits: Limits,
        traces: Path | None,
    ) -> "Answers":
        """Answers of a model, `samples` to each task.

        Args:
            limits: of an answer's program.
            traces: the folder to write a trace of each into.
        """
        folder = Traces(traces, name) if traces else None
        return cls(
            name,
            of_model(name, model, config),
            {(task.id, sample) for task in tasks for sample in range(samples)},
            lambda done: evaluate(model, tokenizer, tasks, config, samples=samples, limits=limits, done=done, traces=folder),
            {"samples": samples, "model": name, "config": config.to_dict()},
        )

    @classmethod
    def from_file(cls, path: Path, every: Iterable[Task], tasks: Iterable[Task], *, limits: Limits, extract: bool) -> "Answers":
        """Answers made elsewhere. The report names the file's ids without a task, and the tasks without an answer.

        Args:
            every: the tasks that the file's ids may name.
            tasks: those of them to score.
            limits, extract: as for `score`.

        Raises:
            TaskError: as `read_samples`.
        """
        found, unknown = read_samples(path, every)
        wanted = [task.id for task in tasks]
        samples = [sample for sample in found if sample.task.id in wanted]
        counts = Counter(sample.task.id for sample in samples)
        missing = [name for name in wanted if name not in counts]
        return cls(
            str(path),
            of_file(path),
            {(sample.task.id, sample.number) for sample in samples},
            lambda done: score(samples, limits=limits, extract=extract, done=done),
            {"samples": max(counts.values(), default=0), "missing": missing, "unknown": unknown},
        )


def choose_tasks(tasks: Sequence[Task], only: Collection[str], skip: Collection[str], path: Path) -> list[Task]:
    """The tasks with an id in `only`, or all if it is empty, without those with an id in `skip`.

    Raises:
        TaskError: no task of the file has one of these ids, or none is left.
    """
    ids = [task.id for task in tasks]
    for flag, names in (("only", only), ("skip", skip)):
        for name in names:
            if name not in ids:
                raise TaskError(f"--{flag} {name}: {path} has no task with this id{did_you_mean(name, ids)}")
    left = [task for task in tasks if task.id in (only or ids) and task.id not in skip]
    if not left:
        raise TaskError("--only and --skip leave no task; remove one of them")
    return left
