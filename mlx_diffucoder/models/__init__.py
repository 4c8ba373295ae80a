"""The families of models that this program runs, one file each, and the network they share."""

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .base import NO_TOKENS, Family
from .coda import CODA
from .dream import DREAM
from .dreamon import DREAMON
from .llada import LLADA
from .open_dcoder import OPEN_DCODER
from .sdar import SDAR
from .stable_diffcoder import STABLE_DIFFCODER

FAMILIES: tuple[Family, ...] = (DREAM, CODA, DREAMON, OPEN_DCODER, LLADA, STABLE_DIFFCODER, SDAR)
"""Every family. The first that recognizes a checkpoint is the one."""
AUTOREGRESSIVE = ("llama", "qwen2", "qwen3", "mistral", "gemma", "phi3")
"""Kinds of models that mlx-lm runs, from left to right. A few diffusion models have the same `model_type`, and more."""


def find_family(config: Mapping[str, Any], added: Mapping[str, int] = NO_TOKENS) -> Family | None:
    """The family of a parsed `config.json` and of the tokens that were added to its tokenizer, or None."""
    return next((family for family in FAMILIES if family.recognizes(config, added)), None)


def family_of(config: Mapping[str, Any], added: Mapping[str, int] = NO_TOKENS) -> Family:
    """As `find_family`. Raises `ConfigError` where no family recognizes the checkpoint."""
    family = find_family(config, added)
    if family is None:
        known = "; ".join(f"{one.name} ({one.models})" for one in FAMILIES)
        kind = config.get("model_type")
        what = "an autoregressive model, which mlx-lm runs" if kind in AUTOREGRESSIVE else "which this program does not run"
        raise ConfigError(f'model_type is "{kind}", {what}; this program runs: {known}; open an issue to ask for another')
    return family
