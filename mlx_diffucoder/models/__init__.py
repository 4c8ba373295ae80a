"""The families of models that this program runs, one file each, and the network they share."""

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .base import Family
from .dream import DREAM

FAMILIES: tuple[Family, ...] = (DREAM,)
"""Every family. The first that recognizes a `config.json` is the one."""


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a parsed `config.json`, or None."""
    return next((family for family in FAMILIES if family.recognizes(config)), None)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a parsed `config.json`. Raises `ConfigError` where no family recognizes it."""
    family = find_family(config)
    if family is None:
        known = "; ".join(f"{one.name} ({one.models})" for one in FAMILIES)
        raise ConfigError(f'model_type is "{config.get("model_type")}", which this program does not run; it runs: {known}')
    return family
