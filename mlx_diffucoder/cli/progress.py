"""Progress bars on stderr, if it is a terminal."""

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

from ..formatting import format_bytes, visible
from .output import note

if TYPE_CHECKING:
    from ..training.trainer import Report


def _bars(*columns: ProgressColumn) -> Progress:
    """Bars on stderr if it is a terminal. They leave stdout alone, for it may be a file."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal)


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[float], None]]:
    """Show a bar; without a total, only the count. Yields a function that advances it by a count."""
    with _bars(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner for work of unknown length, if stderr is a terminal."""
    with Console(stderr=True).status(escape(visible(what))):
        yield


@contextmanager
def measuring() -> Iterator[Callable[[int, int], None]]:
    """Show a bar for work whose amount is known only after it began. Yields a function that takes what is done, and the total.

    Prints one estimate of the time, also without a terminal.
    """
    began, estimated = time.monotonic(), False
    with _bars(TextColumn("measuring"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=None)

        def tell(done: int, total: int) -> None:
            nonlocal estimated
            progress.update(task, completed=done, total=total)
            if done >= total / 50 and not estimated:
                estimated = True
                seconds = (time.monotonic() - began) * total / done
                about = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
                note(f"measuring takes about {about}; fewer or shorter texts take less")

        yield tell


class Converting(ExitStack):
    """The bars of a conversion: one for the calibration, if there is one, and then one over bytes.

    The second has the name of the file or layer, the speed and the time left. Without a terminal, only an estimate is printed.
    """

    def __init__(self, measures: bool):
        super().__init__()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._reading = _bars(*columns)
        self._task = self._reading.add_task("reading headers", total=None)
        self.tell = self.enter_context(measuring()) if measures else None
        if not measures:
            self.enter_context(self._reading)

    def start(self, total: int) -> None:
        """Begin with the bar over bytes, of which there are `total`."""
        if self.tell:
            self.close()
            self.enter_context(self._reading)
        self._reading.reset(self._task, total=total)

    def advance(self, name: str, count: int) -> None:
        self._reading.update(self._task, description=escape(visible(name)), advance=count)


@contextmanager
def training(steps: int) -> Iterator[Callable[["Report"], None]]:
    """Show a bar over steps with the last report next to it. Without a terminal, print a line for each report."""
    with _bars(BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=steps)

        def tell(report: "Report") -> None:
            if progress.console.is_terminal:
                progress.update(task, completed=report.step, description=_numbers(report))
            if not progress.console.is_terminal or report.valid is not None:
                note(f"step {report.step}  {_numbers(report)}")

        yield tell


def _numbers(report: "Report") -> str:
    valid = "" if report.valid is None else f"  valid {report.valid:.4f}"
    news = "".join(f"  {name} {value:.3f}" for name, value in report.news.items())
    speed = f"{report.tokens_per_second:.0f} tokens/s  {format_bytes(report.memory)}"
    return f"loss {report.loss:.4f}{news}{valid}  rate {report.rate:.1e}  {speed}"
