"""The commit rules and windows: their names, what each does, and its parameters. Imports nothing slow."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

from .errors import ConfigError, did_you_mean

TILE = 32
"""The rows of a tile: on an Apple GPU a forward costs as much for one row of it as for all."""


class Parameter(NamedTuple):
    """A number that a rule or window takes. It is a whole number when its default is one.

    Attributes:
        low, high: the smallest and the largest value allowed.
        meaning: one sentence for the user.
    """

    default: float
    low: float
    high: float
    meaning: str


class Choice(NamedTuple):
    """A rule or a window.

    Attributes:
        summary: what it does, in one sentence for the user.
        parameters: by name.
        grows: of a window, whether a forward costs more on a longer canvas.
    """

    summary: str
    parameters: Mapping[str, Parameter] = {}
    grows: bool = False


Choices = Mapping[str, Choice]


def _tau(default: float) -> Parameter:
    return Parameter(default, 0, 1, "The smallest probability to commit.")


RULES: Choices = {
    "schedule": Choice("Commit a fixed number of tokens in each step, as the reference decoder does; --steps sets the number."),
    "threshold": Choice("Commit every token that is probable enough.", {"tau": _tau(0.9)}),
    "joint": Choice(
        "Commit the leftmost tokens while all of them together are probable enough.",
        {"tau": Parameter(0.9, 0, 1, "The smallest product of their probabilities.")},
    ),
    "entropy": Choice(
        "Commit every token whose own entropy is low, as d3LLM does.",
        {"gamma": Parameter(0.5, 0, 1e6, "The entropy that a token must be below, in nats.")},
    ),
    "entropy-bound": Choice(
        "Commit the most certain tokens while the entropies of all of them together stay within a bound.",
        {"gamma": Parameter(0.1, 0, 1e6, "The bound on the sum, in nats.")},
    ),
    "leftmost": Choice("Commit the leftmost mask; on the window tree, only what a guess verified."),
    "forcing": Choice(
        "Commit every token that is probable enough, and the best of each complete block; for the window forcing only.",
        {"skip": Parameter(0.9, 0, 1, "The probability that a token must be above.")},
    ),
}
"""What `GenerationConfig.rule` can name. `decoding/rules/` holds the code."""


_BLOCK = {
    "size": Parameter(32, 1, 2**20, "Positions in a block."),
    "stop": Parameter(1, 0, 1, "1 stops at the end of the text, 0 at the end of the canvas."),
}


WINDOWS: Choices = {
    "whole": Choice("Compute the whole canvas in each step, as the reference decoder does.", grows=True),
    "blocks": Choice("Fill one block after another, and compute the whole canvas in each step.", _BLOCK, grows=True),
    "blocks-prefix": Choice("Fill one block after another, and reuse keys and values of the text before it.", _BLOCK, grows=True),
    "blocks-dual": Choice("Fill one block after another, and reuse keys and values on both sides of it.", _BLOCK, grows=True),
    "drafts": Choice(
        "Compute the whole canvas and the likely next canvases in one batch, and skip the steps it guessed right.",
        {"ahead": Parameter(8, 1, 256, "Canvases in a batch.")},
        grows=True,
    ),
    "sliding": Choice(
        "Compute only the positions near the first mask, and reuse keys and values of the text before them.",
        {
            "width": Parameter(24, 1, 2**20, "Positions that can be committed, from the first mask on."),
            "suffix": Parameter(4, 0, 2**20, "Masks after them that the model also sees, at least."),
            "refresh": Parameter(0, 0, 2**20, "Compute all keys and values anew after this many commits; 0 is never."),
        },
    ),
    "tree": Choice(
        "Verify a tree of guesses and predict the next masks in one small forward, from left to right.",
        {"rows": Parameter(32, 8, 2**12, "Positions in a forward.")},
    ),
    "ahead": Choice(
        "Commit in several blocks at once, opening the next before the last is full, and compute the whole canvas in each step.",
        {
            "block": Parameter(32, 1, 2**20, "Positions in a block."),
            "add": Parameter(0.1, 0, 1, "Share of the last open block that is committed before the next opens."),
            "decoded": Parameter(0.95, 0, 1, "Share of a block that completes the next; no effect on what is committed."),
        },
        grows=True,
    ),
    "forcing": Choice(
        "Commit in several blocks at once, none of which sees a later one, and reuse the keys and values of full ones.",
        {
            "block": Parameter(16, 1, 2**20, "Positions in a block."),
            "add": Parameter(0.9, 0, 1, "Share of the last open block that is committed before the next opens."),
            "decoded": Parameter(0.95, 0, 1, "Share of a block that is committed before each step commits in the next."),
        },
    ),
    "block-causal": Choice(
        "Fill one block after another, and compute a finished block once more only; for block-causal models.",
        {"length": Parameter(4, 1, 2**20, "Positions in a block.")},
    ),
}
"""What `GenerationConfig.window` can name. `decoding/windows/` holds the code."""


class DefaultWindow(str):
    """A window that nobody asked for: a family of models that cannot use it decodes on its own."""


class DefaultLength(int):
    """A `max_tokens` that nobody set: another window has another one, and a short context cuts it."""

    @classmethod
    def of(cls, window: str) -> Self:
        """768 tokens; 256 on windows whose forwards cost more on a longer canvas."""
        return cls(256 if WINDOWS[window.partition(":")[0]].grows else 768)


def parse_choice(text: str, choices: Choices, field: str) -> tuple[str, dict[str, float]]:
    """`threshold:tau=0.8` -> `("threshold", {"tau": 0.8})`. Parameters that are not given have their defaults.

    Raises:
        ConfigError: an unknown name or parameter, or a value out of bounds. The message lists what is allowed.
    """
    name, _, rest = str(text).partition(":")
    if name not in choices:
        near = did_you_mean(name, choices)
        raise ConfigError(f"{field} must be one of {', '.join(describe(choices))}, not {text!r}{near}", field=field)
    parameters = choices[name].parameters
    values = {key: parameter.default for key, parameter in parameters.items()}
    seen = set[str]()
    for part in filter(None, rest.split(",")):
        key, _, value = (word.strip() for word in part.partition("="))
        if key in seen:
            raise ConfigError(f"{field} {name}: {key} is given twice; leave one out", field=field)
        seen.add(key)
        if key not in values:
            known = ", ".join(values) or "none"
            raise ConfigError(f"{field} {name} has no parameter {key!r}; its parameters: {known}", field=field)
        default, low, high, _ = parameters[key]
        try:
            values[key] = type(default)(value)
        except ValueError:
            values[key] = math.nan
        if not low <= values[key] <= high:
            wanted = f"whole number from {low} to {high}" if isinstance(default, int) else f"number from {low:g} to {high:g}"
            raise ConfigError(f"{field} {name}: {key} must be a {wanted}, not {value!r}", field=field)
    return name, values


def block_length_of(window: object) -> int:
    """The positions in a block where `window` is block-causal, as `GenerationConfig.window` or a file has it; otherwise 0."""
    try:
        name, parameters = parse_choice(str(window), WINDOWS, "window")
    except ConfigError:
        return 0
    return int(parameters["length"]) if name == "block-causal" else 0


def describe(choices: Choices) -> list[str]:
    """Each choice with its default parameters, in the form that `parse_choice` reads."""
    parameters = {
        name: ",".join(f"{key}={one.default:g}" for key, one in own.parameters.items()) for name, own in choices.items()
    }
    return [f"{name}:{given}" if given else name for name, given in parameters.items()]
