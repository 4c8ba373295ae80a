"""Distillation: a model learns to guess its own answers further ahead, so that a forward commits more of them.

The data are the model's own answers, see `answers`. What is learned from them is an objective of `OBJECTIVES`: to add one,
write a file with a class like `drafts.Drafts`, and add it to the table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config import GenerationConfig
from ..decoding.result import TILE
from ..errors import TrainError, one_of
from ..evaluation import Limits
from ..generation import Answer, stream_generate
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .answers import OwnAnswer, own_answers
from .d2f import D2F
from .dparallel import DParallel
from .drafts import Drafts
from .grpo import Prompt
from .job import Job, digest
from .learners import Learner
from .memory import FLOAT, LOGITS, Memory, memory_to_train
from .parallel import launched
from .recompute import HEAD_ROWS, computed_once, recompute_layers, recomputes
from .settings import TrainSettings
from .trainer import Arrays, Method, make_optimizer, streams
from .trajectory import Trajectory

OBJECTIVES: Mapping[str, type[Drafts | DParallel | D2F]] = {
    "drafts": Drafts,
    "trajectory": Trajectory,
    "dparallel": DParallel,
    "d2f": D2F,
}
CHANGED = 1.0
"""Tiles a useful token that weigh as much as answers that are all other ones: 1 % of them as much as 0.01 tiles."""


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """What is learned and how it is measured.

    Attributes:
        objective: a name in `OBJECTIVES`.
        max_tokens: the longest answer.
        limits: of the programs that test answers.
        together: prompts answered in one batch.

    Raises:
        TrainError: the objective is not known.
    """

    objective: str
    max_tokens: int
    limits: Limits
    together: int = 8

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise TrainError(f"objective must be {one_of(list(OBJECTIVES), self.objective)}", field="objective")

    @property
    def answering(self) -> GenerationConfig:
        """The tree that commits what it verifies, from left to right."""
        return self._decoding(Drafts, 1.0)

    def decoding(self, tau: float = 1.0) -> GenerationConfig:
        """The objective's window, with a rule that also commits what is surer than `tau`."""
        return self._decoding(OBJECTIVES[self.objective], tau)

    def _decoding(self, of: type[Drafts | DParallel | D2F], tau: float) -> GenerationConfig:
        return GenerationConfig(max_tokens=self.max_tokens, window=of.window, rule=of.rule.format(tau))


class Distill(Method):
    """An objective on the model's own answers, which `prepare` writes or reads.

    Args:
        prompts: to learn from.
        valid: to evaluate on.
    """

    def __init__(
        self, learner: Learner, plan: DistillPlan, settings: TrainSettings, prompts: Sequence[Prompt], valid: Sequence[Prompt]
    ):
        self._learner, self._plan, self._settings = learner, plan, settings
        self._prompts, self._valid = prompts, valid
        self._objective = OBJECTIVES[plan.objective](learner.tokenizer)
        self._texts: list[OwnAnswer] = []
        self.greedy: list[list[int]] = []

    @property
    def asked(self) -> int:
        """The prompts that `prepare` answers."""
        return len(self._prompts) + len(self._valid)

    def prepare(self, file: Path, **how: Any) -> int:
        """Answer the prompts; the keywords and errors are those of `own_answers`. Returns the number of right answers.

        Raises:
            TrainError: none is right.
        """
        learner, plan, model = self._learner, self._plan, self._learner.model
        asked = (model, learner.tokenizer, [*self._prompts, *self._valid], plan.answering, plan.limits, file)
        model.eval()
        with computed_once(model):
            rows = own_answers(*asked, base=learner.identity["base"], together=plan.together, **how)
        self.greedy = [row["ids"] for row in rows[len(self._prompts) :]]
        self._texts = [
            OwnAnswer(np.array(one.ids, np.int32), np.array(row["ids"], np.int32), row["known"])
            for one, row in zip(self._prompts, rows, strict=False)
            if row["right"]
        ]
        if not self._texts:
            raise TrainError(
                f"none of the {len(self._prompts)} answers ends and passes its tests, so there is nothing to learn from;"
                " try other tasks or a larger --max-tokens"
            )
        return len(self._texts)

    def batches(self, model: DiffusionModel, step: int) -> Sequence[Arrays]:
        each = self._settings.accumulate
        return [self._batch(number) for number in range(step * each, (step + 1) * each)]

    def _batch(self, number: int) -> Arrays:
        size, most, seed = self._settings.batch_size, len(self._texts), self._settings.seed
        places = range(number * size, (number + 1) * size)
        chosen = [int(np.random.default_rng([seed, 5, at // most]).permutation(most)[at % most]) for at in places]
        return self._objective.draw([self._texts[one] for one in chosen], np.random.default_rng([seed, 6, number]))

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        return self._objective.loss(model, *arrays) / self._settings.accumulate


def distill_job(
    learner: Learner,
    settings: TrainSettings,
    plan: DistillPlan,
    train: Sequence[Prompt],
    valid: Sequence[Prompt] = (),
    *,
    gradient_checkpointing: bool = False,
) -> tuple[Job, Distill]:
    """A run that distils a model, and its method, to be prepared before the run starts.

    Args:
        train, valid: the prompts to learn from, and to evaluate on.

    Raises:
        TrainError: the model cannot decode with the tree, there are several processes, or the weights that are trained do not fit
            the objective.
    """
    if launched().size > 1:
        raise TrainError("train distill runs in one process; start it without mlx.launch")
    family = learner.model.family
    if family.shift != 1 or learner.model.config.block_length:
        raise TrainError(f"train distill is for the window tree, which {family.name} models cannot use", field="model")
    if (tune := learner.identity["tune"]) not in OBJECTIVES[plan.objective].tunes:
        fit = " or ".join(OBJECTIVES[plan.objective].tunes)
        raise TrainError(f"tune must be {fit} for the objective {plan.objective}, not {tune}", field="tune")
    if gradient_checkpointing:
        recompute_layers(learner.model)
    method = Distill(learner, plan, settings, train, valid)
    job = Job(
        learner=learner,
        settings=settings,
        what=f"{len(train)} prompts, answered first, {plan.objective}",
        memory=_memory(learner.model, settings, plan, max(len(prompt.ids) for prompt in train)),
        method=lambda: method,
        evaluation=(lambda: partial(_lost, method, learner, plan, valid)) if valid else None,
        identity={
            "method": f"distill {plan.objective}",
            "max_tokens": plan.max_tokens,
            "data": digest(json.dumps([prompt.ids, prompt.task.tests]).encode() for prompt in train),
            "valid": digest(json.dumps(prompt.ids).encode() for prompt in valid),
        },
    )
    return job, method


def _lost(method: Distill, learner: Learner, plan: DistillPlan, valid: Sequence[Prompt], model: DiffusionModel) -> float:
    """Tiles a useful token where the tree verifies all, and what answers cost that differ from those of the base."""
    with computed_once(model):
        found = decoded(model, learner.tokenizer, valid, plan.decoding())
    return tiles_of(found) + CHANGED * (1 - share_same(found, method.greedy))


class Decoded(NamedTuple):
    """An answer: its useful tokens, with the end token, and the tiles that its forwards took."""

    ids: list[int]
    answer: Answer
    tiles: int


def decoded(model: DiffusionModel, tokenizer: Tokenizer, prompts: Sequence[Prompt], decoding: GenerationConfig) -> list[Decoded]:
    """The answers to prompts, one after the other."""
    found = []
    for prompt in prompts:
        *_, last = stream_generate(model, tokenizer, prompt.ids, decoding)
        answer = Answer.of(tokenizer, last, len(prompt.ids), decoding)
        ids = last.tokens[len(prompt.ids) :][: answer.useful_tokens].tolist()
        found.append(Decoded(ids, answer, sum(-(-rows // TILE) for rows in last.rows)))
    return found


def tiles_of(found: Sequence[Decoded]) -> float:
    """Tiles a useful token."""
    return sum(one.tiles for one in found) / max(1, sum(len(one.ids) for one in found))


def share_same(found: Sequence[Decoded], greedy: Sequence[list[int]]) -> float:
    """The share of answers that are those of the base, token by token."""
    return sum(one.ids == ids for one, ids in zip(found, greedy, strict=True)) / len(found)


def _memory(model: DiffusionModel, settings: TrainSettings, plan: DistillPlan, longest: int) -> Memory:
    """As for a supervised run on the objective's canvases."""
    objective, batch = OBJECTIVES[plan.objective], settings.batch_size
    length, rows = objective.rows(longest + plan.max_tokens)
    lanes = min(len(streams()), settings.accumulate)
    how = {"batch": batch, "length": length, "accumulate": settings.accumulate, "lanes": lanes}
    memory = memory_to_train(model, make_optimizer(settings), **how)
    logits = min(batch * rows, HEAD_ROWS) if recomputes(model) else batch * rows
    return replace(memory, logits=lanes * logits * model.config.vocab_size * FLOAT * LOGITS)
