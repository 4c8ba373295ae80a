"""Timing: after a warm-up, the median of several trials and their spread."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol, Self

Show = Callable[[str], AbstractContextManager[Any]]
"""Is entered with the name of each piece of work, while it is done."""


@dataclass(frozen=True)
class Timing:
    """Seconds of the same work, done several times: the median, the least (`low`) and the most (`high`)."""

    seconds: float
    low: float
    high: float
    trials: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        return cls(median(seconds), min(seconds), max(seconds), len(seconds))


@dataclass(frozen=True)
class Spread:
    """Any number measured several times: the median, the least (`low`) and the most (`high`)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median(values), min(values), max(values))


def spread_text(numbers: Mapping[str, float], middle: str = "median", factor: float = 1) -> str:
    """`50.0 (40.0-60.0)`: a `Timing` or `Spread` as a dictionary, each number times `factor`.

    Args:
        middle: the key of the number before the brackets.
    """
    value, low, high = (factor * numbers[key] for key in (middle, "low", "high"))
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def timings(work: Callable[[], Any], trials: int) -> Timing:
    """Time `work`, which must wait for its result, after one run that does not count."""
    work()
    seconds = []
    for _ in range(trials):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return Timing.of(seconds)


class Section(Protocol):
    """A part of a measurement. Its trials alternate with those of other parts."""

    @property
    def name(self) -> str:
        """Its name, for people."""
        ...

    def warm_up(self) -> None:
        """Run everything once without timing it."""
        ...

    def trial(self, delay: float) -> None:
        """Time everything once after `delay` seconds of rest; short work is timed several times."""
        ...


def take_turns(sections: Sequence[Section], trials: int, delay: float, show: Show) -> None:
    """Measure sections in turns, so that the spread of each covers the whole time of the measurement.

    Other work on a machine comes and goes within seconds. Trials in one go would agree with each other and with no later run.

    Args:
        delay: seconds of rest before each trial.
    """
    for section in sections:
        with show(f"warming up: {section.name}"):
            section.warm_up()
    for number in range(trials):
        for section in sections:
            with show(f"trial {number + 1} of {trials}: {section.name}"):
                section.trial(delay)
