"""Which fields of a `GenerationConfig` go together."""

from typing import Any

from .choices import WINDOWS, parse_choice
from .errors import ConfigError

EPS = 1e-3
REFERENCES = (
    ("schedule", "whole"),
    ("schedule", "block-causal"),
    ("threshold", "block-causal"),
    ("entropy", "ahead"),
    ("forcing", "forcing"),
)
"""The rules and windows of published decoders."""


def check_together(config: Any) -> None:
    """Raise `ConfigError` where fields of a `GenerationConfig` do not go together."""
    rule, (window, parameters) = config.rule.partition(":")[0], parse_choice(config.window, WINDOWS, "window")
    in_blocks = window == "block-causal"
    if config.threshold is not None and config.rule != f"threshold:tau={config.threshold}":
        raise ConfigError(f"threshold is for the rule threshold, and rule is {config.rule}; leave one out", field="threshold")
    if config.block_length is not None and (not in_blocks or parameters["length"] != config.block_length):
        raise ConfigError(
            f"block_length {config.block_length} does not fit the window {config.window}; leave one out", field="block_length"
        )
    if in_blocks:
        _check_blocks(config, int(parameters["length"]))
    if config.threshold is not None and "window" in config.auto:
        return  # `for_model` may give it the window on which a threshold has steps and a reference
    _check_schedule(config, rule, window)
    if config.reference:
        _check_reference(config, rule, window)
    if window == "tree" and rule == "schedule":
        raise ConfigError(
            "rule schedule cannot commit on the window tree; use the rule threshold, or the window whole", field="rule"
        )
    if (window == "forcing") != (rule == "forcing"):
        raise ConfigError(
            f"rule {config.rule} is not for the window {config.window}: the two named forcing go together; use both or neither",
            field="rule",
        )


def _check_schedule(config: Any, rule: str, window: str) -> None:
    """Check that fields of the schedule are set for the rule schedule only, on a window that it commits on."""
    steps = config.steps is not None and (rule, window) != ("threshold", "block-causal")
    fields = {"steps": steps, "alg_temp": config.alg_temp, "eps": config.eps != EPS, "alg": config.alg == "origin"}
    field = next((name for name, given in fields.items() if given), None)
    named = window in ("tree", "forcing") and "window" not in config.auto
    if field and (named or rule != "schedule"):
        name = "alg origin" if field == "alg" else field
        why = f"which the window {window} does not take" if named else f"and rule is {config.rule}"
        either = "it out, or use the window whole" if named else "one out"
        raise ConfigError(f"{name} is for the rule schedule, {why}; leave {either}", field=field)


def _check_reference(config: Any, rule: str, window: str) -> None:
    """Check that there is a published decoder of this rule and window."""
    fit, windows = [one for one, where in REFERENCES if where == window], dict.fromkeys(where for _, where in REFERENCES)
    if not fit:
        raise ConfigError(f"reference needs one of the windows {', '.join(windows)}, not {config.window}", field="reference")
    if rule not in fit:
        raise ConfigError(
            f"reference needs the rule {' or '.join(fit)} on the window {window}, not {config.rule}", field="reference"
        )


def _check_blocks(config: Any, length: int) -> None:
    """Check what the window block-causal cannot do."""
    blocks = -(-config.max_tokens // length)
    if config.eps != EPS or config.alg_temp:
        name = "alg_temp" if config.alg_temp else "eps"
        raise ConfigError(
            f"{name} is for the schedule of timesteps, which the window block-causal does not have; leave it out", field=name
        )
    if config.steps is not None and config.steps % blocks:
        raise ConfigError(
            f"steps must be a multiple of {blocks}, the blocks of {length} in max_tokens {config.max_tokens}, not {config.steps}",
            field="steps",
        )
    if config.reference and config.max_tokens % length:
        raise ConfigError(
            f"max_tokens must be a multiple of block_length {length} for reference, not {config.max_tokens}", field="max_tokens"
        )
    if config.reference and config.alg != "maskgit_plus" and "alg" not in config.auto:
        raise ConfigError(f"alg must be maskgit_plus for reference on the window block-causal, not {config.alg}", field="alg")
