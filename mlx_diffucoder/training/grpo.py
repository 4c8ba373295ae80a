"""GRPO as a method of the trainer: rounds of answers, their rewards, and the clipped objective.

How probable an answer is, `order` decides: coupled-GRPO takes it in any order (`coupled.py`), JustGRPO in the order of
decoding (`left_to_right.py`).

A round is `prompts_per_step` prompts with `group` answers each, generated with the weights at its start. It
serves `updates` optimizer steps; coupled-GRPO draws masks for each. A checkpoint keeps the data that later steps of the
round need, so a run can resume in the middle of one. All draws of a round follow from the seed and its number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..config import GenerationConfig
from ..errors import CheckpointError, TrainError
from ..evaluation import Limits
from ..models.transformer import DiffusionModel
from ..tasks import Task
from ..tokenizer import Tokenizer
from .coupled import Coupled
from .left_to_right import LeftToRight
from .parallel import launched
from .policy import Answers, Likelihood, Questions, clipped_loss, leave_one_out
from .recompute import computed_once
from .rollouts import RollOut, roll_out, shared
from .settings import GrpoSettings, TrainSettings
from .state import ROUND
from .trainer import Arrays, Method

NOTHING = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Part:
    """Some answers to one prompt, with the data that the steps of a round need.

    Attributes:
        advantages: float32 `[N]`.
        old, reference: log π, float32 `[M]`, for each step of the round; empty if not needed.
    """

    answers: Answers
    advantages: NDArray[np.float32]
    old: list[NDArray[np.float32]] = field(default_factory=list)
    reference: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Round:
    """The answers that `updates` steps learn from, with the number of the round."""

    number: int
    parts: list[Part]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A task and its prompt in ids."""

    task: Task
    ids: list[int]


@dataclass(frozen=True, kw_only=True)
class GrpoPlan:
    """How answers are drawn, tested and learned from.

    Attributes:
        decoding: how answers are drawn; its seed is ignored.
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


def likelihood_of(order: str, model: DiffusionModel, mask_id: int) -> Likelihood:
    """How log π is computed, by the name of `GrpoSettings.order`.

    Raises:
        TrainError: a block-causal model is to learn from left to right.
    """
    if order == "any":
        return Coupled(mask_id)
    if model.config.block_length:
        raise TrainError(
            f"order {order} is not for {model.family.name} models: they fill one block after another; leave out --order",
            field="order",
        )
    return LeftToRight(mask_id, model.shift)


def answers_together(likelihood: Likelihood, batch_size: int) -> int:
    """The answers that are forwarded together."""
    return max(1, batch_size // likelihood.rows(0, 1)[0])


class Grpo(Method):
    """GRPO on tasks.

    Args:
        prompts: the prompts, already checked to fit.
        likelihood: how log π is computed.
        reference: the trainable weights of the reference model, if the objective has a KL term.
        roll_out: writes the answers and rewards them.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        tokenizer: Tokenizer,
        plan: GrpoPlan,
        settings: TrainSettings,
        likelihood: Likelihood,
        reference: Any = None,
        roll_out: RollOut = roll_out,
    ):
        self._prompts, self._tokenizer, self._plan, self._settings = prompts, tokenizer, plan, plan.grpo
        self._seed, self._likelihood, self._reference, self._roll_out = settings.seed, likelihood, reference, roll_out
        self._answers_together = answers_together(likelihood, settings.batch_size)
        self._round: Round | None = None
        self._told: list[dict[str, float]] = []
        self._last: list[dict[str, float]] = []
        self.forwarded = self.learnt = 0  # positions so far: without a gradient (generation, scoring) and with one

    def batches(self, model: DiffusionModel, step: int) -> Sequence[Arrays]:
        number, update = divmod(step, self._settings.updates)
        if self._round is None or self._round.number != number:
            training = model.training
            model.eval()
            self._round = self._next(model, number)
            model.train(training)
        arrays = [self._arrays(part, number, place, update) for place, part in enumerate(self._round.parts)]
        self.learnt += sum(one[0].size for one in arrays)
        return arrays

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        *asked, old, reference, advantages, shares = arrays
        settings = self._settings
        now = self._likelihood.log_pi(model, *asked)
        return clipped_loss(now, old, reference, advantages, shares, clip_ratio=settings.clip_ratio, kl=settings.kl)

    def news(self) -> dict[str, float]:
        """Means over the rounds since the last report, or those of the last round if there was none."""
        told = self._told or self._last
        self._told, self._last = [], told[-1:]
        return {name: float(np.mean([one[name] for one in told])) for name in told[0]} if told else {}

    def _next(self, model: DiffusionModel, number: int) -> Round:
        """Generate a round's answers, run them, and score them if later steps need it."""
        chosen = [self._prompts[index] for index in self._chosen(number)]
        own = launched().own(list(enumerate(chosen)))
        asked = [(prompt.task, prompt.ids, self._seeded(number, place)) for place, prompt in own]
        with computed_once(model):
            mine, rewards = self._roll_out(model, self._tokenizer, asked, self._settings.group, self._plan.limits)
        self.forwarded += sum(one.positions for one in mine)
        written, earned = shared([one.answers for one in mine], rewards)
        values = np.array([one.value(self._settings.format_reward) for one in earned]).reshape(len(chosen), -1)
        advantages = [leave_one_out(group) for group in values]
        self._told.append(
            {
                "reward": float(values.mean()),
                "solved": sum(one.passed for one in earned) / len(earned),
                "formed": sum(one.formed for one in earned) / len(earned),
                "telling": sum(bool(one.any()) for one in advantages) / len(advantages),
            }
        )
        starts = range(0, self._settings.group, self._answers_together)
        cut = [
            Part(one.part(which), gained[which].astype(np.float32))
            for one, gained in zip(written, advantages, strict=True)
            for which in (slice(start, start + self._answers_together) for start in starts)
        ]
        kept = [part for part in cut if self._settings.kl or part.advantages.any()]
        # A round without a signal is still a step: weights decay and the learning rate advances.
        parts = [self._compared(model, part, number, place) for place, part in enumerate(kept or cut[:1])]
        return Round(number, parts)

    def _chosen(self, number: int) -> list[int]:
        """The prompts of a round, drawn epoch by epoch in random order."""
        many, most = self._settings.prompts_per_step, len(self._prompts)
        places = range(number * many, (number + 1) * many)
        return [int(np.random.default_rng([self._seed, 2, place // most]).permutation(most)[place % most]) for place in places]

    def _seeded(self, number: int, place: int) -> GenerationConfig:
        seed = np.random.default_rng([self._seed, 3, number, place]).integers(2**63)
        return replace(self._plan.decoding, seed=int(seed))

    def _compared(self, model: DiffusionModel, part: Part, number: int, place: int) -> Part:
        """Add log π of the current weights and of the reference model, for the masks of each step."""
        updates = range(self._settings.updates)
        asked = [self._questions(part, number, place, update) for update in updates]
        old = [NOTHING, *self._scores(model, asked[1:])]  # in the first step old and new are equal
        if not self._settings.kl:
            return replace(part, old=old, reference=[NOTHING for _ in updates])
        learning = model.trainable_parameters()
        model.update(self._reference)
        reference = self._scores(model, asked)
        model.update(learning)
        return replace(part, old=old, reference=reference)

    def _scores(self, model: DiffusionModel, asked: Sequence[Questions]) -> list[NDArray[np.float32]]:
        different = asked if self._likelihood.drawn else asked[:1]
        self.forwarded += sum(one.tokens.size for one in different)
        found = [np.array(self._likelihood.log_pi(model, *one.arrays())) for one in different]
        return found * (len(asked) // max(1, len(different)))

    def _questions(self, part: Part, number: int, place: int, update: int) -> Questions:
        rng = np.random.default_rng([self._seed, 4, number, place, update])
        return self._likelihood.ask(part.answers, rng)

    def _arrays(self, part: Part, number: int, place: int, update: int) -> Arrays:
        asked = self._questions(part, number, place, update)
        answers = self._settings.prompts_per_step * self._settings.group
        shares = 1 / (answers * part.answers.lengths[asked.owner])
        given = (part.old[update], part.reference[update], part.advantages[asked.owner], shares.astype(np.float32))
        return (*asked.arrays(), *(from_numpy(one) for one in given))

    def save(self, folder: Path) -> None:
        """Write the current round into a checkpoint folder."""
        if self._round is None:
            return
        kept: dict[str, mx.array] = {"number": mx.array(self._round.number)}
        for place, part in enumerate(self._round.parts):
            answers = part.answers
            arrays: dict[str, NDArray[Any]] = {
                "tokens": answers.tokens,
                "lengths": answers.lengths,
                "advantages": part.advantages,
            }
            arrays |= {f"old.{update}": one for update, one in enumerate(part.old)}
            arrays |= {f"reference.{update}": one for update, one in enumerate(part.reference)}
            kept |= {f"{place:04d}.{name}": from_numpy(value) for name, value in arrays.items() if value.size}
            kept[f"{place:04d}.start"] = mx.array(answers.start)
        mx.save_safetensors(str(folder / ROUND), kept)

    def read(self, folder: Path) -> None:
        """Read the round of a checkpoint. Raises `CheckpointError` if it cannot be read."""
        try:
            kept: Any = mx.load(str(folder / ROUND))
            places = sorted({name.partition(".")[0] for name in kept if name[0].isdigit()})
            self._round = Round(int(kept["number"]), [self._part_of(kept, place) for place in places])
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"{folder / ROUND}: cannot be read ({str(error).splitlines()[0]})") from None

    def _part_of(self, kept: dict[str, mx.array], place: str) -> Part:
        def of_updates(name: str) -> list[NDArray[np.float32]]:
            keys = [f"{place}.{name}.{update}" for update in range(self._settings.updates)]
            return [np.array(kept[key]) if key in kept else NOTHING for key in keys]

        answers = Answers(np.array(kept[f"{place}.tokens"]), int(kept[f"{place}.start"]), np.array(kept[f"{place}.lengths"]))
        return Part(answers, np.array(kept[f"{place}.advantages"]), of_updates("old"), of_updates("reference"))
