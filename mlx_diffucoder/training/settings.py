"""What a run was asked for, checked, and the learning rate that follows from it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import TrainError, one_of

CANVASES = ("random", "longest", "full")
OPTIMIZERS = ("adamw", "muon")
OBJECTIVES = ("masked", "causal", "mixed")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train. Fields are the flags of `diffucode train`.

    Attributes:
        steps: optimizer steps of the whole run; the learning rate's cosine ends with the last.
        batch_size: canvases forwarded together.
        accumulate: batches a step.
        max_length: of a canvas, prompt and padding included.
        learning_rate: at the end of the warm-up, from where it falls to `final` of itself.
        warmup: steps of the linear rise.
        clip: the largest norm of a gradient.
        weight_decay: AdamW's, on matrices that are no embeddings.
        optimizer: `adamw`; or `muon` for the matrices of the layers (Jordan et al. 2024), AdamW for the rest.
        save_every, eval_every: in steps.
        patience: evaluations without a better loss after which the run ends; 0 never ends it.
        objective: `masked`; `causal`, left to right, which a model can be begun with; or `mixed`; see `objective.py`.
        infill, canvas, least_t, prefixes, padding, smoothing, seed: see `Drawing`.
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
        for name, low, high in (
            ("steps", 1, 2**31),
            ("batch_size", 1, 2**16),
            ("accumulate", 1, 2**16),
            ("max_length", 2, 2**20),
            ("warmup", 0, 2**31),
            ("save_every", 1, 2**31),
            ("eval_every", 1, 2**31),
            ("patience", 0, 2**31),
            ("infill", 0, 1),
            ("prefixes", 0, 1),
            ("padding", 0, 1),
            ("smoothing", 0, 0.5),
            ("final", 0, 1),
            ("learning_rate", 1e-12, 1e3),
            ("clip", 1e-9, 1e9),
            ("weight_decay", 0, 1e3),
            ("least_t", 1e-6, 1),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or not low <= value <= high:
                raise TrainError(f"{name} must be from {low:g} to {high:g}, not {value!r}", field=name)
        for name, known in (("canvas", CANVASES), ("optimizer", OPTIMIZERS), ("objective", OBJECTIVES)):
            if (value := getattr(self, name)) not in known:
                raise TrainError(f"{name} must be {one_of(known, value)}", field=name)
        if self.objective == "causal" and self.infill:
            raise TrainError("infill is for the masked objective: left to right, nothing behind a hole is seen", field="infill")
        if self.objective == "causal" and self.prefixes:
            raise TrainError("prefixes is for the masked objective: left to right, every prefix is asked for", field="prefixes")
        if self.objective == "causal" and self.padding:
            raise TrainError("padding is for the masked objective: left to right, there is none to learn", field="padding")
        if self.objective == "causal" and self.smoothing:
            raise TrainError("smoothing is for the masked objective: left to right, nothing is far", field="smoothing")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a linear rise, then half a cosine."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        gone = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, gone))))

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it."""
        return asdict(self)
