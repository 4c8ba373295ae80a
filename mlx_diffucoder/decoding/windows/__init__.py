"""Windows: which positions are forwarded in a step, and whose K/V are cached between forwards.

To add a window, write it in a file here with its K/V cache (`base.Window` is the protocol), add a line to `WINDOWS`
below, and its name and parameters to `choices.WINDOWS`, from which the command line and its help are made.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...choices import WINDOWS as PARAMETERS
from ...choices import parse_choice
from ...config import GenerationConfig
from .ahead import Ahead
from .base import Window
from .block_causal import BlockCausal
from .blocks import Blocks
from .drafts import Drafts
from .forcing import Forcing
from .sliding import Sliding
from .tree import Tree
from .whole import Whole

WINDOWS: dict[str, Callable[..., Window]] = {
    "whole": Whole,
    "blocks": partial(Blocks, cache="none"),
    "blocks-prefix": partial(Blocks, cache="prefix"),
    "blocks-dual": partial(Blocks, cache="dual"),
    "drafts": Drafts,
    "sliding": Sliding,
    "tree": Tree,
    "ahead": Ahead,
    "forcing": Forcing,
    "block-causal": BlockCausal,
}
"""The windows by the name `GenerationConfig.window` gives them."""


def window_for(config: GenerationConfig) -> Window:
    """The window that `config.window` names."""
    name, parameters = parse_choice(config.window, PARAMETERS, "window")
    window = WINDOWS[name](**parameters)
    return replace(window, reference=config.reference) if isinstance(window, Forcing) else window
