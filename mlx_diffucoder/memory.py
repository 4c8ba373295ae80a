"""The memory of this machine, and the memory that a generation needs."""

import os
from typing import Any

from mlx.utils import tree_flatten

RUN_FACTOR = 1.1
"""The memory for a generation, as a multiple of the weights' bytes."""


def memory_size() -> int:
    """This machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_of(tree: Any) -> int:
    """The bytes of all arrays in a tree of them, such as a module's parameters."""
    arrays: Any = tree_flatten(tree)
    return sum(value.nbytes for _, value in arrays)


def memory_to_run(weights: int) -> int:
    """About how many bytes of memory a generation takes with `weights` bytes of weights."""
    return int(weights * RUN_FACTOR)
