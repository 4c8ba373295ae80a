"""Progress bars on stderr, if it is a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..formatting import format_bytes

if TYPE_CHECKING:
    from ..training.trainer import Report


def _bars(*columns: ProgressColumn) -> Progress:
    """Bars on stderr if it is a terminal. They leave stdout alone, for it may be a file."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show a bar. Yields a function that advances it by a count."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _bars(*columns) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner for work of unknown length, if stderr is a terminal."""
    with Console(stderr=True).status(escape(what)):
        yield


class Measuring:
    """A bar for work whose amount is known only after it began. Prints one estimate of the time, also without a terminal."""

    def __init__(self, progress: Progress):
        self._progress, self._task, self._estimated = progress, progress.add_task("measuring", total=None), False
        self._began = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
        if done >= total / 50 and not self._estimated:
            self._estimated = True
            seconds = (time.monotonic() - self._began) * total / done
            about = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
            print(f"measuring takes about {about}; fewer or shorter texts take less", file=sys.stderr)


@contextmanager
def measuring() -> Iterator[Measuring]:
    """Show a bar. Without a terminal, only the estimate is printed."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with _bars(*columns) as progress:
        yield Measuring(progress)


class Reading:
    """A bar over bytes, with the name of the file or layer, the speed and the time left."""

    def __init__(self, progress: Progress):
        self._progress, self._task = progress, progress.add_task("reading headers", total=None)

    def start(self, total: int) -> None:
        """Start again, with `total` bytes to read."""
        self._progress.reset(self._task, total=total)

    def advance(self, name: str, count: int) -> None:
        self._progress.update(self._task, description=escape(name), advance=count)


@contextmanager
def reading() -> Iterator[Reading]:
    """Show a bar over bytes, whose number is given later, if stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _bars(*columns) as progress:
        yield Reading(progress)


class Converting:
    """The bars of a conversion: one for the calibration, if there is one, and then one over bytes."""

    def __init__(self, bars: ExitStack, measures: bool):
        self._bars = bars
        self.tell = bars.enter_context(measuring()).tell if measures else None
        self._reading = None if measures else bars.enter_context(reading())

    def start(self, total: int) -> None:
        if self._reading is None:
            self._bars.close()
            self._reading = self._bars.enter_context(reading())
        self._reading.start(total)

    def advance(self, name: str, count: int) -> None:
        if self._reading:
            self._reading.advance(name, count)


@contextmanager
def converting(measures: bool) -> Iterator[Converting]:
    """Show the bars of a conversion. Without a terminal, only an estimate is printed."""
    with ExitStack() as bars:
        yield Converting(bars, measures)


@contextmanager
def training(steps: int) -> Iterator[Callable[["Report"], None]]:
    """Show a bar over steps with the last report next to it. Without a terminal, print a line for each report."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with _bars(*columns) as progress:
        task = progress.add_task("", total=steps)

        def tell(report: "Report") -> None:
            if progress.console.is_terminal:
                progress.update(task, completed=report.step, description=_numbers(report))
            if not progress.console.is_terminal or report.valid is not None:
                print(f"step {report.step}  {_numbers(report)}", file=sys.stderr, flush=True)

        yield tell


def _numbers(report: "Report") -> str:
    valid = "" if report.valid is None else f"  valid {report.valid:.4f}"
    news = "".join(f"  {name} {value:.3f}" for name, value in report.news.items())
    speed = f"{report.tokens_per_second:.0f} tokens/s  {format_bytes(report.memory)}"
    return f"loss {report.loss:.4f}{news}{valid}  rate {report.rate:.1e}  {speed}"
