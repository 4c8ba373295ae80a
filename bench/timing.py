"""How long work takes: after a warm-up, the median of trials and their spread."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol, Self

from mlx_diffucoder.formatting import format_spread


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
        return format_spread(self.seconds, self.low, self.high)


@dataclass(frozen=True)
class Spread:
    """Any figure found several times: the median, the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median(values), min(values), max(values))

    def to_dict(self) -> dict[str, float]:
        """As JSON can hold it."""
        return asdict(self)


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


class Section(Protocol):
    """A part of a measurement, whose trials are taken in turns with those of others."""

    @property
    def name(self) -> str:
        """What is being measured, for people."""
        ...

    def warm_up(self) -> None:
        """Run what is to be timed once, for no count."""
        ...

    def trial(self, delay: float) -> None:
        """Time everything once, or several times what is short, after `delay` seconds of rest."""
        ...


def take_turns(
    sections: Sequence[Section], trials: int, delay: float, show: Callable[[str], AbstractContextManager[Any]]
) -> None:
    """Measure sections in turns, so that each one's spread is over all the time that they take together.

    What else the machine does comes and goes in seconds: trials in one go would agree with each other and with no later run.

    Args:
        show: is entered with the name of what is being done.
    """
    for section in sections:
        with show(f"warming up: {section.name}"):
            section.warm_up()
    for number in range(trials):
        for section in sections:
            with show(f"trial {number + 1} of {trials}: {section.name}"):
                section.trial(delay)


def timed(work: Callable[[], Any], trials: int) -> float:
    """Median seconds of `work`, as `timings` has it."""
    return timings(work, trials).seconds


def best(work: Callable[[], Any], trials: int) -> float:
    """The least seconds of `work`, as `timings` has it: what a machine can do, whatever else it does."""
    return timings(work, trials).low
