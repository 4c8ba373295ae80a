"""Answers of the model that learns, written by the fast decoder, and what each earns.

An answer earns 1 where its code passes the task's tests, run as `evaluation` runs it, in a process of its own;
and a little where it is well formed: it has ended, and its code is Python that defines what was asked for.
"""

import ast
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..config import GenerationConfig
from ..decoding.result import Step
from ..evaluation import Limits, code_of, run_program
from ..generation import Answer, stream_batch
from ..models.transformer import DiffusionModel
from ..tasks import Task, defines
from ..tokenizer import Tokenizer
from .coupled import Answers


@dataclass(frozen=True, eq=False)
class Written:
    """Answers to one prompt: on their canvases, and as text.

    Attributes:
        positions: positions forwarded to write them.
    """

    answers: Answers
    texts: list[Answer]
    positions: int


@dataclass(frozen=True)
class Reward:
    """What one answer earned, and of what."""

    passed: bool
    formed: bool

    def value(self, format_reward: float) -> float:
        return float(self.passed) + format_reward * self.formed


def write(model: DiffusionModel, tokenizer: Tokenizer, prompt: Sequence[int], count: int, config: GenerationConfig) -> Written:
    """`count` answers to a prompt, denoised together; raises as `stream_batch`."""
    last: tuple[Step, ...] = ()
    for rows in stream_batch(model, tokenizer, [prompt] * count, config):
        last = rows
    texts = [Answer.of(tokenizer, step, len(prompt), config) for step in last]
    tokens = np.stack([step.tokens for step in last])
    lengths = np.array([text.useful_tokens + text.unresolved_masks for text in texts], dtype=np.int64)
    behind = np.arange(tokens.shape[1]) >= len(prompt) + lengths[:, None]
    tokens = np.where(behind, np.int32(tokenizer.pad_id), tokens)
    return Written(Answers(tokens, len(prompt), lengths), texts, last[0].positions * count)


def judge_all(answers: Sequence[tuple[Task, Answer]], limits: Limits) -> list[Reward]:
    """What each earns. Programs run side by side, the same one to the same task once.

    Raises:
        ExecutionError: no process could be started.
    """
    codes = [(task.id, task.tests, code_of(answer.text, task)) for task, answer in answers]
    programs = {(name, code): tests for name, tests, code in codes if code}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        outcomes = pool.map(lambda one: run_program(one[0][1], one[1], limits), programs.items())
        passed = {program: outcome.passed for program, outcome in zip(programs, outcomes, strict=True)}
    return [
        Reward(passed.get((name, code), False), answer.ended and is_formed(code, task.entry_point))
        for (name, _, code), (task, answer) in zip(codes, answers, strict=True)
    ]


def is_formed(code: str, name: str | None) -> bool:
    """Whether text is Python that defines `name`; it is parsed, and not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(code) and (name is None or defines(code, name))
