"""The memory of this machine, the memory that a generation needs, and the check that a model fits."""

import logging
import os
from functools import cache
from typing import Any, Literal

import mlx.core as mx
from mlx.utils import tree_flatten

from .device import on_metal
from .errors import CheckpointError
from .formatting import format_bytes

RUN_FACTOR = 1.1
"""The memory for a generation, as a multiple of the weights' bytes."""
CLOSE = 0.9
"""The share of `working_set` above which weights are slow on Metal: where mlx-lm warns, too."""
WIRED_FROM = 0.5
"""The share of `working_set` above which weights are kept resident. Smaller ones stay in memory by themselves."""
NO_WIRED = "DIFFUCODE_NO_WIRED_MEMORY"
"""The environment variable that leaves Metal's wired limit as it is."""
WIDTHS = (8, 6, 5, 4, 3, 2)
"""Bits that weights are quantized to."""
_log = logging.getLogger("mlx_diffucoder")


def memory_size() -> int:
    """This machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def working_set() -> int:
    """The bytes that a program may use where MLX computes: what Metal recommends, a CUDA GPU's, or the machine's memory."""
    info = mx.device_info() if mx.default_device().type == mx.DeviceType.gpu else {}
    return int(info.get("max_recommended_working_set_size") or info.get("total_memory") or memory_size())


def bytes_of(tree: Any) -> int:
    """The bytes of all arrays in a tree of them, such as a module's parameters."""
    arrays: Any = tree_flatten(tree)
    return sum(value.nbytes for _, value in arrays)


def memory_to_run(weights: int) -> int:
    """About how many bytes of memory a generation takes with `weights` bytes of weights."""
    return int(weights * RUN_FACTOR)


def fit_of(weights: float) -> Literal["fits", "tight", "no"]:
    """Whether so many bytes of weights fit into `working_set`."""
    limit = working_set()
    return "fits" if weights <= CLOSE * limit else "tight" if weights <= limit else "no"


def check_fits(name: str, weights: float, parameters: int) -> None:
    """Check that weights fit into `working_set`, before they are read; log a warning where they nearly fill it.

    Args:
        name: the model's, for the message.
        weights: their bytes.
        parameters: their number.

    Raises:
        CheckpointError: they do not fit; the message names the bits a weight that would.
    """
    fit, limit = fit_of(weights), f"the {format_bytes(working_set())} that a program may use here"
    if fit == "no":
        # With a scale and a bias of 16 bits for 64 weights.
        fitting = [str(bits) for bits in WIDTHS if fit_of(parameters * (bits + 0.5) / 8) == "fits"]
        advice = f"at {', '.join(fitting)} bits a weight it fits: diffucode convert -q --q-bits" if fitting else "use -m pocket"
        raise CheckpointError(f"{name}: its weights take {format_bytes(weights)}, more than {limit}; {advice}")
    if fit == "tight":
        _log.warning(f"note: {name}: its weights take {format_bytes(weights)} of {limit}: it will be slow")


def keep_resident(weights: int) -> None:
    """On Metal, let weights that take more than half of `working_set` stay in memory, once for the whole process.

    Doing so for every generation has made a kernel panic (ml-explore/mlx issue 3186). `DIFFUCODE_NO_WIRED_MEMORY=1` leaves
    it out.
    """
    if on_metal() and weights > WIRED_FROM * working_set() and not os.environ.get(NO_WIRED):
        _set_wired_limit()


@cache
def _set_wired_limit() -> None:
    mx.set_wired_limit(working_set())
