"""The settings of a coupled-GRPO run, checked."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import TrainError


@dataclass(frozen=True, kw_only=True)
class GrpoSettings:
    """How answers are drawn and compared. The fields are options of `diffucode train grpo`.

    Attributes:
        group: answers to a prompt; each is compared with the others.
        prompts_per_step: prompts per round.
        updates: optimizer steps per round.
        clip_ratio: ε of the clipped ratio.
        kl: weight of the KL to the initial model.
        format_reward: reward of a well-formed answer; passing the tests adds 1.

    Raises:
        TrainError: a value is out of its range; the message begins with the field.
    """

    group: int = 8
    prompts_per_step: int = 4
    updates: int = 2
    clip_ratio: float = 0.2
    kl: float = 0.0
    format_reward: float = 0.1

    def __post_init__(self) -> None:
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
            value = getattr(self, name)
            if not math.isfinite(value) or not low <= value <= high:
                raise TrainError(f"{name} must be from {low:g} to {high:g}, not {value!r}", field=name)

    def to_dict(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        return asdict(self)
