"""Windows: which positions are forwarded, and which keys and values are kept between forwards.

A window is a small frozen value: it can be printed, compared and kept in a log. Opened on a canvas
it becomes a `WindowState`, which holds what one generation keeps. One window, one file and one line in the table.
"""

from collections.abc import Callable
from functools import partial

from ...choices import WINDOWS, parse_choice
from ...config import GenerationConfig
from .base import ForwardOutput, Window, WindowState
from .blocks import Blocks
from .drafts import Drafts
from .sliding import Sliding
from .whole import Whole

__all__ = ["Blocks", "Drafts", "ForwardOutput", "Sliding", "Whole", "Window", "WindowState", "window_for"]

KINDS: dict[str, Callable[..., Window]] = {
    "whole": Whole,
    "blocks": partial(Blocks, cache="none"),
    "blocks-prefix": partial(Blocks, cache="prefix"),
    "blocks-dual": partial(Blocks, cache="dual"),
    "drafts": Drafts,
    "sliding": Sliding,
}
"""By the name that `GenerationConfig.window` gives them."""


def window_for(config: GenerationConfig) -> Window:
    """The window that a configuration names."""
    name, parameters = parse_choice(config.window, WINDOWS, "window")
    return KINDS[name](**parameters)
