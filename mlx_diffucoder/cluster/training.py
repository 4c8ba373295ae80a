"""Answers of a model in training, from the machines of a cluster: distillation's, and the rollouts of coupled-GRPO.

A worker makes the model from its own copy of the checkpoint. In coupled-GRPO the model learns between two rounds, so each
round sends the trained weights: one file, given to the scheduler, which each worker asks for by its digest. An adapter takes
some MB. All weights of a large model would take longer to send than the answers to write, so they are refused.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config import GenerationConfig
from ..errors import ConfigError
from ..evaluation import Limits
from ..formatting import format_bytes
from ..memory import bytes_of
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from ..training.answers import AnswerBatches, Rows, answer_here
from ..training.learners import Learner, Tuning, from_checkpoint
from ..training.rollouts import Asked, Reward, RollOut, Written, roll_out
from .evaluation import limits_there
from .machines import Machines, shared
from .models import ModelRef, folder_of, kept

LARGEST = 256 << 20
"""Bytes of trained weights that are sent in each round at most."""


@dataclass(frozen=True)
class LearnerRef:
    """A model to train, as the first machine names it to the others: a checkpoint, and how it is tuned."""

    model: ModelRef
    tuning: Tuning
    seed: int

    @classmethod
    def of(cls, learner: Learner) -> "LearnerRef":
        """Raises `ConfigError` for random weights, which no checkpoint holds."""
        if learner.made is None:
            raise ConfigError("--cluster needs a checkpoint that all machines have", field="--cluster")
        name, tuning, seed = learner.made
        return cls(ModelRef.of(name), tuning, seed)

    def learner(self, weights: str | None = None) -> Learner:
        """It, on a worker, with the trained weights of this digest. Raises as `folder_of`."""
        name = self.model.name
        learner, has = kept(self, lambda: [from_checkpoint(folder_of(self.model), name, self.tuning, self.seed, unread=True), {}])
        learner.model.eval()
        if weights and has.get("weights") != weights:
            arrays: Any = mx.load(io.BytesIO(shared(weights)), format="safetensors")
            learner.model.load_weights(list(arrays.items()), strict=False)
            has["weights"] = weights
        return learner


def spread_answers(machines: Machines, learner: Learner, limits: Limits, sandbox: str) -> AnswerBatches:
    """As `answer_here`, with the same rows, in any order.

    Args:
        limits, sandbox: as for `limits_there`.
    """
    ref, there = LearnerRef.of(learner), limits_there(limits, sandbox)

    def answer(
        model: DiffusionModel, tokenizer: Tokenizer, batches: Sequence[Any], decoding: GenerationConfig, limits: Limits
    ) -> Iterator[Rows]:
        return (rows for _, rows in machines.results([partial(_rows, ref, batch, decoding, there) for batch in batches]))

    return answer


def _rows(ref: LearnerRef, batch: Any, decoding: GenerationConfig, limits: dict[str, Any]) -> Rows:
    """A batch of answers, on a worker."""
    learner = ref.learner()
    return next(answer_here(learner.model, learner.tokenizer, [batch], decoding, Limits(**limits)))


def spread_rollouts(machines: Machines | None, learner: Learner, limits: Limits, sandbox: str) -> RollOut:
    """As `roll_out`, with the same answers and rewards.

    Args:
        machines: to spread them over; None for this one alone.
        limits, sandbox: as for `limits_there`.

    Raises:
        ConfigError: the trained weights are too large to be sent in each round.
    """
    if machines is None:
        return roll_out
    ref, there = LearnerRef.of(learner), limits_there(limits, sandbox)
    if (size := bytes_of(learner.model.trainable_parameters())) > LARGEST:
        raise ConfigError(
            f"--cluster would send {format_bytes(size)} of trained weights to each machine in every round, and"
            f" {format_bytes(LARGEST)} is the most; train an adapter with --tune lora, or start the run with mlx.launch",
            field="--cluster",
        )

    def rolled_out(
        model: DiffusionModel, tokenizer: Tokenizer, asked: Sequence[Asked], count: int, limits: Limits
    ) -> tuple[list[Written], list[Reward]]:
        weights = machines.share(_file_of(model))
        found = dict(machines.results([partial(_rolled_out, ref, weights, one, count, there) for one in asked]))
        rows = [found[place] for place in range(len(asked))]
        return [one for written, _ in rows for one in written], [one for _, rewards in rows for one in rewards]

    return rolled_out


def _rolled_out(
    ref: LearnerRef, weights: str, one: Asked, count: int, limits: dict[str, Any]
) -> tuple[list[Written], list[Reward]]:
    """The answers to a prompt and their rewards, on a worker."""
    learner = ref.learner(weights)
    return roll_out(learner.model, learner.tokenizer, [one], count, Limits(**limits))


def _file_of(model: DiffusionModel) -> bytes:
    file, trained = io.BytesIO(), tree_flatten(model.trainable_parameters())
    mx.save_safetensors(file, dict(trained))  # type: ignore[arg-type]
    return file.getvalue()
