"""Best of n: several answers to one prompt, denoised in one batch, ranked by probability and by tests."""

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .config import GenerationConfig
from .decoding.likelihood import mean_log_probability
from .device import synchronized
from .errors import ConfigError, TaskError
from .evaluation import Limits, code_of
from .evaluation.run import run_answer
from .file_kinds import read_bytes
from .forbidden import forbidden_ids
from .generation import Answer, canvas_of, stream_batch, tokens_left
from .models.transformer import DiffusionModel
from .tasks import Task, read_tasks
from .tokenizer import Tokenizer
from .trace.writer import TraceWriter


@dataclass(frozen=True)
class Ranked:
    """One of several answers.

    Attributes:
        answer: the answer.
        score: the mean log-probability of its tokens, its end token included, in nats.
        row: its row of the batch, counted from 1.
        passed: whether it passes the tests; None if it was not tested.
    """

    answer: Answer
    score: float
    row: int
    passed: bool | None = None


@dataclass(frozen=True)
class Ranking:
    """Answers, the best first.

    Attributes:
        answers: the most probable first; after `tested`, those that pass before the others.
        nfe: forwards of all answers and of their scores.
        positions: positions forwarded in them.
        rows: as in `decoding.result.Step`, of the same forwards.
    """

    answers: list[Ranked]
    nfe: int
    positions: int
    rows: tuple[int, ...]

    @property
    def useful_tokens(self) -> int:
        """Useful tokens of all answers."""
        return sum(one.answer.useful_tokens for one in self.answers)

    @classmethod
    def joined(cls, rankings: Sequence["Ranking"]) -> "Ranking":
        """One ranking of answers that were written one by one; their rows are counted from 1."""
        found = [replace(one, row=row) for row, ranking in enumerate(rankings, start=1) for one in ranking.answers]
        found.sort(key=lambda one: (one.passed is False, -one.score))
        rows = tuple(count for ranking in rankings for count in ranking.rows)
        return cls(found, len(rows), sum(ranking.positions for ranking in rankings), rows)

    def tested(self, task: Task, limits: Limits) -> "Ranking":
        """Run the tests of a task on each answer; the answers that pass come first.

        The tests run the model's code on this machine: see `evaluation.execute` for what that means.
        """
        tested = [replace(one, passed=run_answer(code_of(one.answer.text, task), task, limits).passed) for one in self.answers]
        # The sort is stable: answers that pass stay in the order of their scores.
        return replace(self, answers=sorted(tested, key=lambda one: not one.passed))


def best_of(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    config: GenerationConfig,
    count: int,
    trace: TraceWriter | None = None,
) -> Ranking:
    """Answer a prompt `count` times in one batch, and rank the answers by their probability.

    Args:
        prompt: token ids from `prompt_ids`.
        trace: records the steps of all answers; the caller sets which one is kept.

    Raises:
        ConfigError: all answers would be the same.
        PromptError: as `stream_generate`.
    """
    check_count(config, count)
    config = config.within(tokens_left(model, tokenizer, list(prompt)))
    steps = stream_batch(model, tokenizer, [prompt] * count, config)
    if trace:
        steps = trace.batch([canvas_of(tokenizer, prompt, config)] * count, steps)
    *_, last = steps
    positions, rows = sum(step.positions for step in last), max((step.rows for step in last), key=len)
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size, config.ban_tokens)
    found = []
    with synchronized():
        for row, step in enumerate(last, start=1):
            answer = Answer.of(tokenizer, step, len(prompt), config)
            ids = step.tokens[: len(prompt) + answer.useful_tokens].tolist()
            score, forwarded = mean_log_probability(model, ids, len(prompt), tokenizer.mask_id, forbidden)
            positions, rows = positions + forwarded, (*rows, forwarded)
            found.append(Ranked(answer, score, row))
    found.sort(key=lambda one: -one.score)
    return Ranking(found, len(rows), positions, rows)


def check_count(config: GenerationConfig, count: int) -> None:
    """Raise `ConfigError` if several answers would all be the same."""
    if count > 1 and config.temperature == 0 and not config.alg_temp and config.alg != "origin":
        raise ConfigError(f"temperature 0 gives the same answer {count} times; set it above 0", field="temperature")


def read_tests(path: Path, prompt: str) -> Task:
    """The tests in a Python file, or in a task file with one task.

    Raises:
        TaskError: the file cannot be read, is not Python, or holds no test or several tasks.
    """
    if path.suffix in (".jsonl", ".json"):
        tasks = read_tasks(path, infilling=False)
        if len(tasks) > 1:
            raise TaskError(f"{path}: holds {len(tasks)} tasks; give a file with one")
        return tasks[0]
    try:
        tests = read_bytes(path, TaskError).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TaskError(f"{path}: not UTF-8 text") from None
    if not tests.strip():
        raise TaskError(f"{path}: is empty; write Python that raises unless the answer is right, such as asserts")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise TaskError(
            f"{path}{line}: not valid Python ({getattr(error, 'msg', None) or error}), so no answer can pass"
        ) from None
    return Task(id=str(path), where=str(path), prompt=prompt, tests=tests)
