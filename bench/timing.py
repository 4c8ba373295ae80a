"""How long work takes: after a warm-up, the median of trials."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any


def timed(work: Callable[[], Any], trials: int) -> float:
    """Median seconds of `work`, which must wait for its result, after one run that does not count."""
    work()
    seconds = []
    for _ in range(trials):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
