"""How much memory this machine has, and how much a generation needs."""

import os

ROOM_TO_RUN = 1.1
"""Memory for a generation, over the weights' bytes."""


def memory_size() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_to_run(weights: int) -> int:
    """Bytes of memory that a generation takes, about, with so many bytes of weights."""
    return int(weights * ROOM_TO_RUN)
