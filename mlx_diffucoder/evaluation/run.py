"""The evaluation loop: generate an answer or fill a hole, take its code, run it, yield a `Result`."""

import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlx.core as mx

from ..config import GenerationConfig
from ..errors import PromptError, TaskError
from ..generation import Answer, prompt_ids, stream_traced
from ..infilling.fill import CONTEXT, TRIES, check_settings, fill
from ..models.transformer import DiffusionModel
from ..tasks import Task
from ..tokenizer import Tokenizer
from ..trace.writer import check_trace, trace_writer
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
        nfe, positions: forwards, and positions forwarded in all of them. These and all that follow are 0 for an answer made
            elsewhere.
        useful_tokens, unresolved_masks: as in `generation.Answer`.
        seconds: time to generate, without running the code or loading the model.
        peak_memory_bytes: MLX's peak since the start of the run.
        rows: as in `decoding.result.Step`.
    """

    task_id: str
    sample: int
    kind: str
    detail: str
    answer: str
    nfe: int = 0
    positions: int = 0
    useful_tokens: int = 0
    unresolved_masks: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    rows: list[int] = field(default_factory=list)

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

    Tasks with a suffix are holes, which are filled between their prompt and their suffix without an instruction. Their
    programs are the whole texts.

    This runs model-written code on this machine: see `execute` for what that means.

    Args:
        model, tokenizer: as `load` returns them.
        tasks: as `read_tasks` returns them.
        config: how to decode; of holes, `max_tokens` is the longest. Its seed (0 if None) is the seed of the run. Each
            answer derives its own from it, so no answer depends on the ones before.
        samples: number of answers to each task.
        limits: the limits of an answer's program.
        done: pairs of task id and sample to skip.
        traces: where to write every step; the seconds then include writing.

    Raises:
        TaskError: a task's prompt does not fit the model; raised by the call itself, naming file and line.
        ConfigError: the configuration is for answers, and the tasks are holes.
        TraceError: a trace cannot be written, or would replace another kind of file (raised by the call itself).
        ExecutionError: as `run_program`.
    """
    prompts = {task.id: prompt_of(model, tokenizer, task, config) for task in tasks}
    wanted = [(task, sample) for task in tasks for sample in range(samples) if (task.id, sample) not in done]
    if traces:
        for task, sample in wanted:
            check_trace(traces.file(task.id, sample))

    def results() -> Iterator[Result]:
        for task, sample in wanted:
            trace = (traces.file(task.id, sample), traces.model) if traces else None
            yield evaluate_one(model, tokenizer, task, sample, prompts[task.id], config, limits or Limits(), trace)

    return results()


TraceFile = tuple[Path, str] | None
"""Where to write the trace of an answer, and the model's name in it."""


def evaluate_one(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    task: Task,
    sample: int,
    prompt: list[int],
    config: GenerationConfig,
    limits: Limits,
    trace: TraceFile = None,
) -> Result:
    """One answer of `evaluate`, whose other answers it does not depend on.

    Args:
        sample: the index of the answer.
        prompt: from `prompt_of`.

    Raises:
        ExecutionError: as `run_program`.
    """
    seeded = replace(config, seed=seed_of(config.seed or 0, task.id, sample))
    start = time.perf_counter()
    answer = _answered if task.suffix is None else _infilled
    found = answer(model, tokenizer, task, prompt, seeded, trace)
    return _result(task, sample, found, time.perf_counter() - start, limits)


def seed_of(seed: int, task_id: str, sample: int) -> int:
    """The seed of one answer, below 2**64. It does not depend on the order of the run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}/{task_id}".encode()).digest()[:8], "big")


def prompt_of(model: DiffusionModel, tokenizer: Tokenizer, task: Task, config: GenerationConfig) -> list[int]:
    """The ids of a task's prompt; none for a hole, whose text is shown as far as it fits.

    Raises:
        TaskError: it does not fit the model; the message names file and line.
        ConfigError: the configuration is for answers, and the task is a hole.
    """
    if task.suffix is not None:
        check_settings(config, None, CONTEXT, TRIES)
        return []
    try:
        return prompt_ids(model, tokenizer, task.prompt_for(raw=config.raw), config)
    except PromptError as error:
        raise TaskError(f"{task.where}: {error}") from None


def _answered(
    model: DiffusionModel, tokenizer: Tokenizer, task: Task, prompt: list[int], config: GenerationConfig, trace: TraceFile
) -> dict[str, Any]:
    """The fields of a result that come from denoising an answer."""
    with closing(stream_traced(model, tokenizer, prompt, config, trace)) as steps:
        *_, last = steps
    answer = Answer.of(tokenizer, last, len(prompt), config)
    return {
        "answer": answer.text,
        "nfe": last.nfe,
        "positions": last.positions,
        "rows": list(last.rows),
        "useful_tokens": answer.useful_tokens,
        "unresolved_masks": answer.unresolved_masks,
    }


def _infilled(
    model: DiffusionModel, tokenizer: Tokenizer, task: Task, prompt: list[int], config: GenerationConfig, trace: TraceFile
) -> dict[str, Any]:
    """The fields of a result that come from filling a task's hole."""
    path, name = trace or (None, "")
    with trace_writer(path, tokenizer, config, name) as writer:
        filled = fill(model, tokenizer, [task.prompt, None, task.suffix or ""], config, trace=writer)
    counts = {key: getattr(filled, key) for key in ("nfe", "positions", "useful_tokens")}
    return {"answer": filled.holes[0], **counts, "rows": list(filled.rows), "unresolved_masks": 0}


def _result(task: Task, sample: int, found: dict[str, Any], seconds: float, limits: Limits) -> Result:
    """The result of an answer, whose code is run here. `found` is from `_answered` or `_infilled`."""
    outcome = run_answer(code_of(found["answer"], task), task, limits)
    return Result(
        task_id=task.id,
        sample=sample,
        kind=outcome.kind,
        detail=outcome.detail,
        **found,
        seconds=seconds,
        peak_memory_bytes=mx.get_peak_memory(),
    )


def run_answer(code: str, task: Task, limits: Limits) -> Outcome:
    """Run an answer's code against the task's tests. Raises as `run_program`."""
    return run_program(code, task.tests, limits) if code.strip() else Outcome("no_code")
