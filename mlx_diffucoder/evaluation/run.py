"""The evaluation loop: generate an answer, extract its code, run it, yield a `Result`."""

import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlx.core as mx

from ..config import GenerationConfig
from ..decoding.result import Step
from ..errors import PromptError, TaskError
from ..generation import Answer, prompt_ids, stream_traced
from ..models.transformer import DiffusionModel
from ..tasks import Task
from ..tokenizer import Tokenizer
from ..trace.writer import check_trace
from .execute import PASSED, Limits, Outcome, run_program
from .extract import code_of


@dataclass(frozen=True, kw_only=True)
class Result:
    """One answer to one task.

    Attributes:
        task_id, sample: the task, and the index of the answer from 0.
        kind: `passed`, or one of `execute.FAILURES`.
        detail: one line about the failure.
        answer: the model's text.
        nfe, positions: forwards, and positions forwarded in all of them.
        useful_tokens, unresolved_masks: as in `generation.Answer`.
        seconds: time to generate, without running the code or loading the model.
        peak_memory_bytes: MLX's peak since the start of the run.
    """

    task_id: str
    sample: int
    kind: str
    detail: str
    answer: str
    nfe: int
    positions: int
    useful_tokens: int
    unresolved_masks: int
    seconds: float
    peak_memory_bytes: int

    @property
    def passed(self) -> bool:
        return self.kind == PASSED

    def to_dict(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Traces:
    """Where to write the traces: one file an answer, in an existing folder.

    Attributes:
        folder: the folder.
        model: the model's name in the traces.
    """

    folder: Path
    model: str

    def file(self, task_id: str, sample: int) -> Path:
        """The file for one answer. Characters that a file name cannot hold are percent-encoded."""
        return self.folder / f"{quote(task_id, safe=' ')}-{sample}.jsonl"


def evaluate(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    config: GenerationConfig,
    *,
    samples: int = 1,
    limits: Limits | None = None,
    done: Collection[tuple[str, int]] = (),
    traces: Traces | None = None,
) -> Iterator[Result]:
    """Answer every task `samples` times and run each answer, yielding the results in that order.

    This runs model-written code on this machine: see `execute` for what that means.

    Args:
        model, tokenizer: as `load` returns them.
        tasks: as `read_tasks` returns them.
        config: how to decode. Its seed (0 if None) is the seed of the run. Each answer derives its own from
            it, so no answer depends on the ones before.
        samples: number of answers to each task.
        limits: the limits of an answer's program.
        done: pairs of task id and sample to skip.
        traces: where to write every step; the seconds then include writing.

    Raises:
        TaskError: a task's prompt does not fit the model; raised by the call itself, naming file and line.
        TraceError: a trace cannot be written, or would replace another kind of file (raised by the call itself).
        ExecutionError: as `run_program`.
    """
    prompts = {task.id: _prompt(model, tokenizer, task, config) for task in tasks}
    bounds = limits or Limits()
    wanted = [(task, sample) for task in tasks for sample in range(samples) if (task.id, sample) not in done]
    if traces:
        for task, sample in wanted:
            check_trace(traces.file(task.id, sample))

    def results() -> Iterator[Result]:
        for task, sample in wanted:
            seeded = replace(config, seed=seed_of(config.seed or 0, task.id, sample))
            yield _answer(model, tokenizer, task, sample, prompts[task.id], seeded, bounds, traces)

    return results()


def seed_of(seed: int, task_id: str, sample: int) -> int:
    """The seed of one answer, below 2**64. It does not depend on the order of the run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}/{task_id}".encode()).digest()[:8], "big")


def _prompt(model: DiffusionModel, tokenizer: Tokenizer, task: Task, config: GenerationConfig) -> list[int]:
    try:
        return prompt_ids(model, tokenizer, task.prompt_for(raw=config.raw), config)
    except PromptError as error:
        raise TaskError(f"{task.where}: {error}") from None


def _answer(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    task: Task,
    sample: int,
    prompt: list[int],
    config: GenerationConfig,
    limits: Limits,
    traces: Traces | None,
) -> Result:
    last: Step | None = None
    start = time.perf_counter()
    trace = (traces.file(task.id, sample), traces.model) if traces else None
    with closing(stream_traced(model, tokenizer, prompt, config, trace)) as steps:
        for step in steps:
            last = step
    seconds = time.perf_counter() - start
    answer = Answer.of(tokenizer, last, len(prompt), config) if last else Answer()
    outcome = run_tests(answer.text, task, limits)
    return Result(
        task_id=task.id,
        sample=sample,
        kind=outcome.kind,
        detail=outcome.detail,
        answer=answer.text,
        nfe=last.nfe if last else 0,
        positions=last.positions if last else 0,
        useful_tokens=answer.useful_tokens,
        unresolved_masks=answer.unresolved_masks,
        seconds=seconds,
        peak_memory_bytes=mx.get_peak_memory(),
    )


def run_tests(answer: str, task: Task, limits: Limits) -> Outcome:
    """Run an answer's code against the task's tests. Raises as `run_program`."""
    code = code_of(answer, task)
    return run_program(code, task.tests, limits) if code else Outcome("no_code")
