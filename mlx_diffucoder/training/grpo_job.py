"""A run of GRPO, ready to start: tasks checked, memory computed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..config import GenerationConfig
from ..errors import PromptError, TaskError
from ..evaluation import evaluate
from ..generation import prompt_ids
from ..memory import bytes_of
from ..models.transformer import DiffusionModel
from ..tasks import Task, read_tasks
from .grpo import Grpo, GrpoPlan, Prompt, answers_together, likelihood_of
from .job import Job, digest
from .learners import Learner
from .memory import FLOAT, LOGITS, Memory, memory_to_train
from .policy import Likelihood
from .recompute import HEAD_ROWS, computed_once, recompute_layers, recomputes
from .rollouts import RollOut, roll_out
from .settings import TrainSettings
from .trainer import Evaluate, make_optimizer, streams


def grpo_job(
    learner: Learner,
    settings: TrainSettings,
    plan: GrpoPlan,
    train: list[Prompt],
    valid: Sequence[Prompt] = (),
    *,
    gradient_checkpointing: bool = False,
    roll_out: RollOut = roll_out,
) -> Job:
    """A run of GRPO.

    Args:
        train: the tasks to answer.
        valid: the tasks to evaluate on; the measure is the share not solved at temperature 0.
        roll_out: as for `Grpo`.

    Raises:
        TrainError: as `likelihood_of`.
    """
    model, grpo, held_out = learner.model, plan.grpo, [prompt.task for prompt in valid]
    if gradient_checkpointing:
        recompute_layers(model)

    likelihood = likelihood_of(grpo.order, model, learner.tokenizer.mask_id)

    def method() -> Grpo:
        reference = model.trainable_parameters() if grpo.kl else None
        return Grpo(train, learner.tokenizer, plan, settings, likelihood, reference, roll_out)

    return Job(
        learner=learner,
        settings=settings,
        what=f"{len(train)} tasks, {grpo.group} answers each to {grpo.prompts_per_step} at a time",
        memory=_memory(model, settings, plan, likelihood, max(len(prompt.ids) for prompt in train)),
        method=method,
        evaluation=(lambda: _unsolved(learner, plan, held_out)) if held_out else None,
        identity={
            "method": "coupled-grpo" if grpo.order == "any" else grpo.order,
            **{name: value for name, value in vars(grpo).items() if name != "order"},
            **{f"decoding.{name}": value for name, value in json.loads(json.dumps(plan.decoding.to_dict())).items()},
            **{f"limits.{name}": value for name, value in asdict(plan.limits).items() if name != "sandbox"},
            "data": digest(_bytes_of(prompt.task) for prompt in train),
            "valid": digest(map(_bytes_of, held_out)),
        },
    )


def _unsolved(learner: Learner, plan: GrpoPlan, tasks: list[Task]) -> Evaluate:
    """The share of tasks that are not solved at temperature 0."""
    greedy = replace(plan.decoding, temperature=0.0, seed=0)

    def unsolved(model: DiffusionModel) -> float:
        with computed_once(model):
            found = list(evaluate(model, learner.tokenizer, tasks, greedy, limits=plan.limits))
        return sum(not result.passed for result in found) / len(found)

    return unsolved


def read_prompts(path: Path, learner: Learner, decoding: GenerationConfig) -> list[Prompt]:
    """Read the tasks of a file, with the ids of their prompts.

    Raises:
        TaskError: as `read_tasks`, or a prompt leaves no space for its answer; the message names the line.
    """
    prompts = []
    for task in read_tasks(path, infilling=False):
        try:
            ids = prompt_ids(learner.model, learner.tokenizer, task.prompt_for(raw=decoding.raw), decoding)
        except PromptError as error:
            raise TaskError(f"{task.where}: {error}") from None
        prompts.append(Prompt(task, ids))
    return prompts


def steps_of(plan: GrpoPlan, tasks: int, epochs: float) -> int:
    """The optimizer steps in which so many tasks are answered `epochs` times, at least one."""
    return max(1, round(epochs * tasks / plan.grpo.prompts_per_step * plan.grpo.updates))


def _memory(model: DiffusionModel, settings: TrainSettings, plan: GrpoPlan, likelihood: Likelihood, longest: int) -> Memory:
    """As for a supervised run on the canvases of `likelihood`; the KL divergence needs a copy of the trained weights."""
    grpo = plan.grpo
    canvases, length, read = likelihood.rows(longest, plan.decoding.max_tokens)
    answers = min(grpo.group, answers_together(likelihood, settings.batch_size))
    parts = grpo.prompts_per_step * -(-grpo.group // answers)
    lanes = min(len(streams()), parts)
    how = {"batch": canvases * answers, "length": length, "accumulate": parts, "lanes": lanes}
    memory = memory_to_train(model, make_optimizer(settings), **how)
    rows = min(read * answers, HEAD_ROWS) if recomputes(model) else read * answers
    reference = bytes_of(model.trainable_parameters()) if grpo.kl else 0
    logits = lanes * rows * model.config.vocab_size * FLOAT * LOGITS
    return replace(memory, weights=memory.weights + reference, logits=logits)


def _bytes_of(task: Task) -> bytes:
    return json.dumps([task.id, task.prompt, task.stub, task.entry_point, task.tests]).encode()
