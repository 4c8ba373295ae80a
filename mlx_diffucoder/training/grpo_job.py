"""A run of coupled-GRPO, ready to start: tasks checked, memory computed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.nn as nn

from ..config import GenerationConfig
from ..errors import PromptError, TaskError, TrainError
from ..evaluation import Limits, evaluate
from ..generation import prompt_ids
from ..models.transformer import DiffusionModel
from ..tasks import Task, read_tasks
from .coupled import CANVASES
from .grpo import CoupledGrpo, Prompt
from .grpo_settings import GrpoSettings
from .job import FREE
from .learners import Learner
from .memory import FLOAT, LOGITS, Memory, bytes_of, memory_to_train
from .recompute import HEAD_ROWS, computed_once, recompute_layers, recomputes
from .settings import TrainSettings
from .state import RunFolder
from .trainer import Hooks, Trainer, make_optimizer, streams


@dataclass(frozen=True, kw_only=True)
class GrpoPlan:
    """How answers are drawn, tested and learned from.

    Attributes:
        decoding: how answers are drawn.
        limits: of the programs that test them.

    Raises:
        TrainError: the temperature is 0, so that all answers to a prompt would be the same.
    """

    grpo: GrpoSettings
    decoding: GenerationConfig
    limits: Limits

    def __post_init__(self) -> None:
        if self.decoding.temperature == 0:
            raise TrainError(
                "temperature must be above 0: there is nothing to learn from answers that are all the same", field="temperature"
            )


@dataclass(frozen=True, eq=False)
class GrpoJob:
    """A run of coupled-GRPO that is ready to start.

    Attributes:
        train: the tasks to answer.
        valid: the tasks to evaluate on; the measure is the share not solved at temperature 0.
        memory: what it takes at most, in bytes.
    """

    learner: Learner
    settings: TrainSettings
    plan: GrpoPlan
    train: list[Prompt]
    valid: list[Task]
    memory: Memory

    @classmethod
    def of(
        cls,
        learner: Learner,
        settings: TrainSettings,
        plan: GrpoPlan,
        train: list[Prompt],
        valid: Sequence[Prompt] = (),
        *,
        gradient_checkpointing: bool = False,
    ) -> "GrpoJob":
        if gradient_checkpointing:
            recompute_layers(learner.model)
        memory = _memory(learner.model, settings, plan, max(len(prompt.ids) for prompt in train))
        return cls(learner, settings, plan, train, [prompt.task for prompt in valid], memory)

    def trainer(self, out: Path, hooks: Hooks, *, resume: bool) -> Trainer:
        """The run, at its start or at the last checkpoint in `out`. Raises as `Job.trainer`."""
        method, learner = self._method(), self.learner

        def write(folder: Path, model: nn.Module) -> None:
            learner.write(folder, model)
            method.save(folder)

        def read(folder: Path) -> None:
            learner.read(folder)
            method.read(folder)

        folder = RunFolder(out, self.identity, write, resume=resume)
        trainer = Trainer(learner.model, method, self.settings, folder, self._evaluation(), hooks)
        trainer.progress = folder.restore(read, trainer.optimizer)
        return trainer

    def _method(self) -> CoupledGrpo:
        return CoupledGrpo(
            self.train,
            self.learner.tokenizer,
            self.plan.grpo,
            self.plan.decoding,
            limits=self.plan.limits,
            seed=self.settings.seed,
            together=self.settings.batch_size,
            reference=self.learner.model.trainable_parameters() if self.plan.grpo.kl else None,
        )

    def _evaluation(self) -> Callable[[DiffusionModel], float] | None:
        if not self.valid:
            return None
        greedy = replace(self.plan.decoding, temperature=0.0, seed=0)

        def unsolved(model: DiffusionModel) -> float:
            with computed_once(model):
                found = list(evaluate(model, self.learner.tokenizer, self.valid, greedy, limits=self.plan.limits))
            return sum(not result.passed for result in found) / len(found)

        return unsolved

    @property
    def what(self) -> str:
        """What the run learns from, for people."""
        grpo = self.plan.grpo
        return f"{len(self.train)} tasks, {grpo.group} answers each to {grpo.prompts_per_step} at a time"

    @property
    def skipped(self) -> list[str]:
        """Always empty: a task that does not fit is an error."""
        return []

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its checkpoint."""
        settings = {name: value for name, value in self.settings.to_dict().items() if name not in FREE}
        return {
            "method": "coupled-grpo",
            **self.learner.identity,
            **settings,
            **self.plan.grpo.to_dict(),
            **{f"decoding.{name}": value for name, value in json.loads(json.dumps(self.plan.decoding.to_dict())).items()},
            **{f"limits.{name}": value for name, value in asdict(self.plan.limits).items()},
            "data": _digest(prompt.task for prompt in self.train),
            "valid": _digest(self.valid),
        }


def read_prompts(path: Path, learner: Learner, decoding: GenerationConfig) -> list[Prompt]:
    """Read the tasks of a file, with the ids of their prompts.

    Raises:
        TaskError: as `read_tasks`, or a prompt leaves no space for its answer; the message names the line.
    """
    prompts = []
    for task in read_tasks(path):
        try:
            ids = prompt_ids(learner.model, learner.tokenizer, task.prompt_for(raw=decoding.raw), decoding)
        except PromptError as error:
            raise TaskError(f"{task.where}: {error}") from None
        prompts.append(Prompt(task, ids))
    return prompts


def steps_of(plan: GrpoPlan, tasks: int, epochs: float) -> int:
    """The optimizer steps in which so many tasks are answered `epochs` times, at least one."""
    return max(1, round(epochs * tasks / plan.grpo.prompts_per_step * plan.grpo.updates))


def _memory(model: DiffusionModel, settings: TrainSettings, plan: GrpoPlan, longest: int) -> Memory:
    """As for a supervised run, but each token is scored twice, and the KL divergence needs a copy of the trained weights."""
    grpo, most = plan.grpo, plan.decoding.max_tokens
    answers = min(grpo.group, max(1, settings.batch_size // CANVASES))
    parts = grpo.prompts_per_step * -(-grpo.group // answers)
    lanes = min(len(streams()), parts)
    batch, length = CANVASES * answers, longest + most
    memory = memory_to_train(model, make_optimizer(settings), batch=batch, length=length, accumulate=parts, lanes=lanes)
    rows = min(2 * answers * most, HEAD_ROWS) if recomputes(model) else 2 * answers * most
    reference = bytes_of(model.trainable_parameters()) if grpo.kl else 0
    logits = lanes * rows * model.config.vocab_size * FLOAT * LOGITS
    return replace(memory, weights=memory.weights + reference, logits=logits)


def _digest(tasks: Iterable[Task]) -> str:
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps([task.id, task.prompt, task.stub, task.entry_point, task.tests]).encode())
    return digest.hexdigest()[:16]
