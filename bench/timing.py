"""How long work takes: after a warm-up, the median of trials and their spread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self


@dataclass(frozen=True)
class Timing:
    """Seconds of the same work done several times: the median, the least and the most."""

    seconds: float
    low: float
    high: float
    trials: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        return cls(median(seconds), min(seconds), max(seconds), len(seconds))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{1e3 * self.seconds:.2f} ms ({1e3 * self.low:.2f} to {1e3 * self.high:.2f})"


def timings(work: Callable[[], Any], trials: int, delay: float = 0.0) -> Timing:
    """`work`, which must wait for its result, timed after one run that does not count.

    Args:
        delay: seconds of rest before each trial, for a machine that slows down when it is hot.
    """
    work()
    seconds = []
    for _ in range(trials):
        time.sleep(delay)
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return Timing.of(seconds)


def timed(work: Callable[[], Any], trials: int) -> float:
    """Median seconds of `work`, as `timings` has it."""
    return timings(work, trials).seconds
