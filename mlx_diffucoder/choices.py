"""The names, parameters and bounds of the commit rules and windows. This module imports nothing slow."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from .errors import ConfigError, did_you_mean


class Parameter(NamedTuple):
    """A number that a rule or window takes; a whole number where its default is an `int`."""

    default: float
    low: float
    high: float


Choices = Mapping[str, Mapping[str, Parameter]]


RULES: Choices = {
    "schedule": {},
    "threshold": {"tau": Parameter(0.9, 0, 1)},
    "factor": {"f": Parameter(1.0, 0, 100)},
    "entropy-bound": {"gamma": Parameter(0.1, 0, 1e6)},
    "stability": {"tau": Parameter(0.9, 0, 1), "epsilon": Parameter(0.001, 0, 100), "span": Parameter(2, 0, 2**20)},
    "local": {"tau": Parameter(0.9, 0, 1), "relaxed": Parameter(0.8, 0, 1), "radius": Parameter(4, 0, 2**20)},
    "prior": {"tau": Parameter(0.9, 0, 1), "decay": Parameter(0.01, 0, 100)},
    "backtrack": {"tau": Parameter(0.8, 0, 1), "fall": Parameter(0.8, 0, 1), "limit": Parameter(1, 0, 2**10)},
}
"""The values of `GenerationConfig.rule`; `decoding/rules` implements them."""


BLOCK = {"size": Parameter(32, 1, 2**20), "stop": Parameter(1, 0, 1)}


WINDOWS: Choices = {
    "whole": {},
    "blocks": BLOCK,
    "blocks-prefix": BLOCK,
    "blocks-dual": BLOCK,
    "drafts": {"ahead": Parameter(8, 1, 256)},
    "sliding": {"width": Parameter(24, 1, 2**20), "suffix": Parameter(4, 0, 2**20), "refresh": Parameter(0, 0, 2**20)},
}
"""The values of `GenerationConfig.window`; `decoding/windows` implements them."""


def parse_choice(text: str, choices: Choices, field: str) -> tuple[str, dict[str, float]]:
    """`threshold:tau=0.8` -> `("threshold", {"tau": 0.8})`; parameters that are not given have their defaults.

    Raises:
        ConfigError: the name, a parameter or a value is not among `choices`; the message lists those that are.
    """
    name, _, rest = str(text).partition(":")
    if name not in choices:
        near = did_you_mean(name, choices)
        raise ConfigError(f"{field} must be one of {', '.join(describe(choices))}, not {text!r}{near}", field=field)
    values = {key: parameter.default for key, parameter in choices[name].items()}
    for part in filter(None, rest.split(",")):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in values:
            known = ", ".join(values) or "none"
            raise ConfigError(f"{field} {name} has no parameter {key!r}; its parameters: {known}", field=field)
        default, low, high = choices[name][key]
        try:
            values[key] = type(default)(value)
        except ValueError:
            values[key] = math.nan
        if not low <= values[key] <= high:
            kind = "whole number" if isinstance(default, int) else "number"
            raise ConfigError(f"{field} {name}: {key} must be a {kind} from {low:g} to {high:g}, not {value!r}", field=field)
    return name, values


def describe(choices: Choices) -> list[str]:
    """Each choice with its default parameters, as `parse_choice` reads it."""
    parameters = {name: ",".join(f"{key}={one.default:g}" for key, one in choices[name].items()) for name in choices}
    return [f"{name}:{given}" if given else name for name, given in parameters.items()]
