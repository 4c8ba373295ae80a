"""Commit rules: which masked positions are committed in a step. One rule, one line in the table."""

from ...choices import RULES, parse_choice
from ...config import GenerationConfig
from .adaptive import Adaptive, EntropyBound, Factor, LocalRelaxation, Prior, Stability, Threshold
from .base import CommitRule
from .remask import Backtrack
from .schedule import schedule_for

ADAPTIVE: dict[str, type[Adaptive]] = {
    "threshold": Threshold,
    "factor": Factor,
    "entropy-bound": EntropyBound,
    "stability": Stability,
    "local": LocalRelaxation,
    "prior": Prior,
    "backtrack": Backtrack,
}
"""By the name that `GenerationConfig.rule` gives them."""


def rule_for(config: GenerationConfig) -> CommitRule:
    """The commit rule that a configuration names."""
    name, parameters = parse_choice(config.rule, RULES, "rule")
    return schedule_for(config) if name == "schedule" else ADAPTIVE[name](**parameters)
