"""Commit rules: which masked positions are committed in a step.

To add a rule, write it in a file here (`base.CommitRule` is the protocol), add a line to `RULES` below, and its
name and parameters to `choices.RULES`, from which the command line and its help are made.
"""

from collections.abc import Callable

from ...choices import RULES as PARAMETERS
from ...choices import parse_choice
from ...config import GenerationConfig
from .adaptive import Entropy, EntropyBound, Forcing, Joint, Threshold
from .base import CommitRule
from .block_schedule import BlockSchedule
from .leftmost import Leftmost
from .schedule import schedule_for

RULES: dict[str, Callable[..., CommitRule]] = {
    "threshold": Threshold,
    "joint": Joint,
    "entropy": Entropy,
    "entropy-bound": EntropyBound,
    "leftmost": Leftmost,
    "forcing": Forcing,
}
"""The rules by the name `GenerationConfig.rule` gives them; all but `schedule`, whose parameters are fields of the config."""


def rule_for(config: GenerationConfig) -> CommitRule:
    """The commit rule that `config.rule` names; on the window block-causal schedules and thresholds are for each block."""
    name, parameters = parse_choice(config.rule, PARAMETERS, "rule")
    if config.window.startswith("block-causal") and name in ("schedule", "threshold"):
        return BlockSchedule.of(config)
    return schedule_for(config) if name == "schedule" else RULES[name](**parameters)
