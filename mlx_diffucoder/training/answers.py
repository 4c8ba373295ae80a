"""A model's own answers to learn from: written from left to right, run with their tests, kept in a file.

    OUT/answers.jsonl    a line each prompt: `key`, `task_id`, `ids` of the answer with its end token, `right`, and `known`

An answer is right if it has ended and passes its tests. `known` has the number of its tokens after each forward. A line is
written when its tests have run, so a run that stops continues with the next prompt.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..config import GenerationConfig
from ..data import HELD_OUT, Text
from ..errors import PromptError, TaskError, TrainError
from ..evaluation import Limits
from ..generation import Answer, prompt_ids, stream_batch
from ..models.transformer import DiffusionModel
from ..tasks import Task, read_rows, task_of, text_in
from ..tokenizer import Tokenizer
from .grpo import Prompt
from .learners import Learner
from .rollouts import rewards_of

ASSERTS = 3
"""Tests with fewer asserts count as none: answers pass them by luck."""
JUDGES = Path(__file__).parents[2] / "bench" / "tasks"
"""Tasks that the results in docs/ were measured on; only a checkout has them."""
PUBLISHED = ("HumanEval/", "HumanEval_", "Mbpp/")
"""What the `task_id` of published benchmarks begins with."""

Batch = Sequence[tuple[str, Prompt]]
"""Prompts, each with its key in the file."""
Rows = list[dict[str, Any]]
"""Lines of the file."""


@dataclass(frozen=True, eq=False, slots=True)
class OwnAnswer(Text):
    """A prompt, and the model's own answer.

    Attributes:
        known: the number of its tokens after each forward, ascending.
    """

    known: Sequence[int] = ()


def read_prompts(
    path: Path, learner: Learner, decoding: GenerationConfig, *, untested: bool, judges: Sequence[Path] | None = ()
) -> list[Prompt]:
    """The prompts of a file of tasks to learn from, each once.

    Args:
        untested: take rows without tests, of which only `prompt` is read, and those with fewer asserts than `ASSERTS`.
        judges: files of tasks whose prompts are refused, besides those that this project is judged by; None refuses none.

    Raises:
        TaskError: the file cannot be read, or a row is not a task, is one that models are judged by, or does not fit the model.
    """
    files = [] if judges is None else [HELD_OUT, *sorted(JUDGES.glob("*.jsonl")), *judges]
    judged = {_plain(prompt): where for file in files for where, prompt in _prompts(file)}
    found: dict[str, Prompt] = {}
    places: dict[str, str] = {}
    for where, row in read_rows(path):
        task = _task(row, where, untested=untested)
        if (first := places.setdefault(task.id, where)) != where:
            raise TaskError(f"{where}: task_id {task.id!r} is already used in {first}")
        if (judges is not None and task.id.startswith(PUBLISHED)) or _plain(task.prompt) in judged:
            judge = judged.get(_plain(task.prompt), f"the benchmark of {task.id}")
            raise TaskError(f"{where}: models are judged by this prompt ({judge}); remove it from what is learned")
        try:
            ids = prompt_ids(learner.model, learner.tokenizer, task.prompt_for(raw=decoding.raw), decoding)
        except PromptError as error:
            raise TaskError(f"{where}: {error}") from None
        if untested or task.tests:
            found.setdefault(_plain(task.prompt), Prompt(task, ids))
    if not found:
        raise TaskError(f"{path}: no task has {ASSERTS} asserts or more in its tests; learn without tests with --untested")
    return list(found.values())


def own_answers(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    decoding: GenerationConfig,
    limits: Limits,
    file: Path,
    *,
    base: str,
    together: int,
    begun: bool = False,
    answer: "AnswerBatches | None" = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:
    """The lines of the file for these prompts, in their order: the model's answers, and whether they are right.

    Args:
        decoding: how to answer.
        file: where the answers are kept; those that it has are not generated again.
        base: identifies the model.
        together: prompts answered in one batch.
        begun: whether training has begun, so that the model is another now.
        answer: writes and tests the answers; by default `answer_here`.
        advance: called with the number of prompts that are done.

    Raises:
        TrainError: training has begun, and the file lacks answers.
        ExecutionError: no process could be started.
    """
    keys = [_key(prompt, base, decoding) for prompt in prompts]
    kept = {row["key"]: row for row in _kept(file) if "known" in row}
    advance(sum(key in kept for key in keys))
    left = [(key, prompt) for key, prompt in zip(keys, prompts, strict=True) if key not in kept]
    if left and begun:
        raise TrainError(f"{file}: lacks answers that the run has learned from; start it again with another --out")
    batches = [left[at : at + together] for at in range(0, len(left), together)]
    for rows in (answer or answer_here)(model, tokenizer, batches, decoding, limits):
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        kept |= {row["key"]: row for row in rows}
        advance(len(rows))
        mx.clear_cache()
    return [kept[key] for key in keys]


def answer_here(
    model: DiffusionModel, tokenizer: Tokenizer, batches: Sequence[Batch], decoding: GenerationConfig, limits: Limits
) -> Iterator[Rows]:
    """The lines of the file for each batch of prompts, which are answered together. Raises `ExecutionError` as `rewards_of`."""
    for batch in batches:
        yield list(_answered(model, tokenizer, batch, decoding, limits))


AnswerBatches = Callable[[DiffusionModel, Tokenizer, Sequence[Batch], GenerationConfig, Limits], Iterator[Rows]]
"""As `answer_here`; the batches may come in any order."""


def _answered(
    model: DiffusionModel, tokenizer: Tokenizer, some: Batch, decoding: GenerationConfig, limits: Limits
) -> Iterator[dict[str, Any]]:
    committed: list[list[int]] = [[] for _ in some]
    for last in stream_batch(model, tokenizer, [prompt.ids for _, prompt in some], decoding):
        for own, step in zip(committed, last, strict=True):
            if len(step.committed):  # not where a finished answer waits for others
                own.append(len(step.committed))
    answers = [Answer.of(tokenizer, step, len(prompt.ids), decoding) for step, (_, prompt) in zip(last, some, strict=True)]
    tested = [(prompt.task, answer) for answer, (_, prompt) in zip(answers, some, strict=True) if prompt.task.tests]
    passed = {task.id: reward.passed for (task, _), reward in zip(tested, rewards_of(tested, limits), strict=True)}
    for step, answer, (key, prompt), own in zip(last, answers, some, committed, strict=True):
        ids = step.tokens[len(prompt.ids) :][: answer.useful_tokens].tolist()
        right = answer.ended and passed.get(prompt.task.id, True)
        yield {"key": key, "task_id": prompt.task.id, "ids": ids, "right": right, "known": list(accumulate(own))}


def _kept(file: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of the file; a kill may have cut the last one, which is removed."""
    if not file.exists():
        return
    lines = file.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        file.write_bytes(b"".join(lines[:-1]))
    for line in lines:
        with suppress(ValueError):
            yield json.loads(line)


def _key(prompt: Prompt, base: str, decoding: GenerationConfig) -> str:
    told = json.dumps([base, prompt.ids, prompt.task.tests, replace(decoding, seed=None).to_dict()], default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _task(row: dict[str, Any], where: str, *, untested: bool) -> Task:
    """A row as a task; its tests are empty where they have fewer than `ASSERTS` asserts."""
    if untested and not {"test", "test_list", "base_input"} & row.keys():
        return Task(id=str(row.get("task_id", where)), where=where, prompt=text_in(row, "prompt", where), tests="")
    task = task_of(row, where)
    if task.suffix is not None:
        raise TaskError(f"{where}: has a suffix, so it is a hole to fill, and no prompt to answer")
    asserts = max(len(re.findall(r"\bassert\b", task.tests)), len(row.get("base_input", [])))
    return task if asserts >= ASSERTS else replace(task, tests="")


def _prompts(file: Path) -> Iterator[tuple[str, str]]:
    """The places and prompts of a file of tasks or texts."""
    return ((where, row["prompt"]) for where, row in read_rows(file) if isinstance(row.get("prompt"), str))


def _plain(prompt: str) -> str:
    return " ".join(prompt.split()).lower()
