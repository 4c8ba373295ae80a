"""Answers made elsewhere, in the files of human-eval and EvalPlus: JSON lines with `task_id` and `completion` or `solution`."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import TaskError
from ..tasks import Task, id_in, read_rows, text_in
from .execute import Limits
from .extract import code_of
from .run import Result, run_answer


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
        task: the task that it answers.
        number: its index among the task's answers, from 0.
        text: what the model wrote.
        whole: whether the file calls it a solution, that is a whole program, not a completion of the task's code.
    """

    task: Task
    number: int
    text: str
    whole: bool

    def code(self, *, extract: bool) -> str:
        """Its program; without `extract` as human-eval has it, the task's code followed by the completion."""
        if extract and not (self.whole and self.task.suffix is not None):
            return code_of(self.text, self.task)
        return self.text if self.whole or self.task.stub is None else self.task.stub + self.text


def read_samples(path: Path, tasks: Iterable[Task]) -> tuple[list[Sample], list[str]]:
    """The answers to some tasks in the file's order, and the ids in the file that none of the tasks has.

    Raises:
        TaskError: the file cannot be read, holds no answer, or holds a row of another kind.
    """
    known = {task.id: task for task in tasks}
    samples, unknown, counts = list[Sample](), dict[str, None](), Counter[str]()
    for where, row in read_rows(path):
        name = id_in(row, where)
        key = "solution" if "solution" in row else "completion"
        if key not in row:
            raise TaskError(f"{where}: not an answer: it has neither completion nor solution")
        text = text_in(row, key, where, empty=True)
        if name in known:
            samples.append(Sample(known[name], counts[name], text, key == "solution"))
            counts[name] += 1
        else:
            unknown[name] = None
    if not samples and not unknown:
        raise TaskError(f"{path}: holds no answer")
    return samples, list(unknown)


def score(
    samples: Sequence[Sample], *, limits: Limits, extract: bool = True, done: Collection[tuple[str, int]] = ()
) -> Iterator[Result]:
    """Run each answer's code against its task's tests. The cost of such results is 0. Raises `ExecutionError`.

    Args:
        limits: the limits of an answer's program.
        extract: whether to look for the code in an answer, as for a model's.
        done: pairs of task id and number to skip.
    """
    for sample in samples:
        if (sample.task.id, sample.number) not in done:
            outcome = run_answer(sample.code(extract=extract), sample.task, limits)
            yield Result(
                task_id=sample.task.id, sample=sample.number, kind=outcome.kind, detail=outcome.detail, answer=sample.text
            )
