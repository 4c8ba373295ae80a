"""The settings of a training run and of GRPO, checked, and the learning-rate schedule."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..errors import TrainError, one_of

if TYPE_CHECKING:
    from ..models.base import Family

CANVASES = ("random", "longest", "full")
OPTIMIZERS = ("adamw", "muon")
ORDERS = ("any", "left-to-right")
OBJECTIVES = ("masked", "causal", "mixed")
NOT_CAUSAL = {
    "infill": "a causal model sees nothing after a hole",
    "prefixes": "the causal one already learns from every prefix",
    "padding": "the causal one has no padding to learn",
    "smoothing": "the causal one has no distant masks",
}
"""Settings that need the masked objective, and why."""


def check_range(settings: Any, name: str, low: float, high: float) -> None:
    """Raise `TrainError` if a setting is not a finite number from `low` to `high`; None passes."""
    value = getattr(settings, name)
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise TrainError(f"{name} must be from {low:g} to {high:g}, not {value!r}", field=name)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train. The fields are the options of `diffucode train`.

    Attributes:
        steps: optimizer steps of the whole run; the cosine of the learning rate ends with the last.
        batch_size: canvases per forward.
        accumulate: batches per step.
        max_length: the longest canvas in tokens, prompt and padding included.
        learning_rate: peak, at the end of the warm-up; it then falls to `final` times the peak.
        warmup: steps of the linear rise.
        clip: the largest gradient norm.
        weight_decay: AdamW's, on matrices other than embeddings.
        optimizer: `adamw`, or `muon` for the layers' matrices (Jordan et al. 2024) with AdamW for the rest.
        save_every, eval_every: steps between checkpoints, and between evaluations.
        patience: the run ends after this many evaluations without a better loss; 0 disables that.
        objective: `masked`, `causal` (left to right, to start a model with) or `mixed`; see `objective.py`.
        infill: share of examples that become infilling canvases.
        canvas: length of the canvases. `random` draws between the batch's longest example and `max_length`, mostly
            short (the sixth power of a uniform number, on a logarithmic scale); `longest` is the batch's longest
            example; `full` is `max_length`.
        least_t: the smallest timestep; without a bound 1/t has no finite variance. The default is the reference's.
        prefixes: share of answers that are masked from some position to the end.
        padding: share of answers whose padding is masked with its own probability.
        smoothing: label smoothing of targets far from visible tokens.
        seed: seeds all draws.

    Raises:
        TrainError: a value is out of its range, or two do not go together; the message begins with the field.
    """

    steps: int
    batch_size: int = 8
    accumulate: int = 1
    max_length: int = 256
    learning_rate: float = 1e-4
    final: float = 0.1
    warmup: int = 0
    clip: float = 1.0
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    save_every: int = 500
    eval_every: int = 100
    patience: int = 0
    objective: str = "masked"
    infill: float = 0.0
    canvas: str = "random"
    least_t: float = 1e-3
    prefixes: float = 0.0
    padding: float = 0.0
    smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for names, low, high in (
            (("steps", "save_every", "eval_every"), 1, 2**31),
            (("warmup", "patience"), 0, 2**31),
            (("batch_size", "accumulate"), 1, 2**16),
            (("max_length",), 2, 2**20),
            (("final", "infill", "prefixes", "padding"), 0, 1),
            (("smoothing",), 0, 0.5),
            (("learning_rate",), 1e-12, 1e3),
            (("clip",), 1e-9, 1e9),
            (("weight_decay",), 0, 1e3),
            (("least_t",), 1e-6, 1),
            (("seed",), 0, 2**63 - 1),
        ):
            for name in names:
                check_range(self, name, low, high)
        for name, known in (("canvas", CANVASES), ("optimizer", OPTIMIZERS), ("objective", OBJECTIVES)):
            if (value := getattr(self, name)) not in known:
                raise TrainError(f"{name} must be {one_of(known, value)}", field=name)
        for name, reason in NOT_CAUSAL.items():
            if self.objective == "causal" and getattr(self, name):
                raise TrainError(f"{name} needs the masked objective: {reason}", field=name)

    def check_family(self, family: "Family") -> None:
        """Raise `TrainError` where models of a family cannot learn like this."""
        if self.objective != "masked" and not family.shift:
            raise TrainError(
                f"objective {self.objective} is not for {family.name} models: without a shift a row sees what it predicts",
                field="objective",
            )
        if self.infill and "infill" in family.cannot:
            raise TrainError(f"infill is not for {family.name} models: {family.cannot['infill']}", field="infill")

    @classmethod
    def of_options(cls, given: Mapping[str, Any]) -> "TrainSettings":
        """The settings among a command's options; one step if `steps` is None.

        Raises:
            TrainError: both `steps` and `epochs` are given, or a value cannot work.
        """
        steps, epochs = given["steps"], given["epochs"]
        if steps is not None and epochs is not None:
            raise TrainError("--steps and --epochs both set the length of the run; give one of them", field="--steps")
        if epochs is not None and not 0 < epochs < 1e6:
            raise TrainError(f"epochs must be above 0 and below 1e6, not {epochs!r}", field="epochs")
        chosen = {one.name: given[one.name] for one in fields(cls) if one.name in given}
        return cls(**{**chosen, "steps": 1 if steps is None else steps})

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a linear warm-up, then half a cosine."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


@dataclass(frozen=True, kw_only=True)
class GrpoSettings:
    """How answers are drawn and compared. The fields are options of `diffucode train grpo`.

    Attributes:
        order: of the tokens whose probabilities make that of an answer. `any` is coupled-GRPO; `left-to-right` is JustGRPO.
        group: answers to a prompt; each is compared with the others.
        prompts_per_step: prompts per round.
        updates: optimizer steps per round.
        clip_ratio: ε of the clipped ratio.
        kl: weight of the KL to the initial model.
        format_reward: reward of a well-formed answer; passing the tests adds 1.

    Raises:
        TrainError: a value is out of its range; the message begins with the field.
    """

    order: str = "any"
    group: int = 8
    prompts_per_step: int = 4
    updates: int = 2
    clip_ratio: float = 0.2
    kl: float = 0.0
    format_reward: float = 0.1

    @property
    def decoding(self) -> dict[str, Any]:
        """How answers are drawn where the user does not say: fields of `GenerationConfig`."""
        return {} if self.order == "any" else {"rule": "leftmost"}

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise TrainError(f"order must be {one_of(ORDERS, self.order)}", field="order")
        if self.group == 1:
            raise TrainError("group must be 2 or more: an answer is compared with the others to the same prompt", field="group")
        for name, low, high in (
            ("group", 2, 2**12),
            ("prompts_per_step", 1, 2**16),
            ("updates", 1, 2**10),
            ("clip_ratio", 1e-6, 1e3),
            ("kl", 0, 1e3),
            ("format_reward", 0, 1e3),
        ):
            check_range(self, name, low, high)
