"""The memory of this machine, and the memory that a generation needs."""

import os

RUN_FACTOR = 1.1
"""The memory for a generation, as a multiple of the weights' bytes."""


def memory_size() -> int:
    """This machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_to_run(weights: int) -> int:
    """About how many bytes of memory a generation takes with `weights` bytes of weights."""
    return int(weights * RUN_FACTOR)
