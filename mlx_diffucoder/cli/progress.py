"""Progress bars on stderr, if it is a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

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
from rich.table import Column

from ..formatting import format_bytes, visible
from .output import note
from .terminal import can_draw

if TYPE_CHECKING:
    from ..training.trainer import Report


def _bars(*columns: ProgressColumn) -> Progress:
    """Bars on stderr if it is a terminal. They leave stdout alone, for it may be a file."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not can_draw(sys.stderr))


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[float], None]]:
    """Show a bar; without a total, only the count. Yields a function that advances it by a count."""
    with _bars(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner for work of unknown length, if stderr is a terminal."""
    with Console(stderr=True).status(escape(visible(what))) if can_draw(sys.stderr) else nullcontext():
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


@contextmanager
def reading() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar over bytes from the first one on: a question may come before.

    Yields a function that takes the name of a file or layer, the bytes so far, and the bytes in all.
    """
    numbers = (kind(table_column=Column(no_wrap=True)) for kind in (DownloadColumn, TransferSpeedColumn, TimeRemainingColumn))
    progress = _bars(TextColumn("{task.description}"), BarColumn(), *numbers)
    task = progress.add_task("", total=None)

    def show(name: str, done: int, total: int) -> None:
        progress.start()
        if progress.tasks[0].total != total:
            progress.reset(task, total=total)
        progress.update(task, description=escape(visible(name)), completed=done)
        if done >= total:  # a question may follow
            progress.stop()

    try:
        yield show
    finally:
        progress.stop()


class Converting(ExitStack):
    """The one bar of a conversion: over the bytes of a download, over a calibration, over the bytes of the weights.

    Without a terminal, only an estimate of the calibration's time is printed.
    """

    _kind: Callable[[], AbstractContextManager[Any]] | None = None
    _tell: Callable[..., None]
    _done = _total = 0

    def _show(self, kind: Callable[[], AbstractContextManager[Any]], *news: Any) -> None:
        if self._kind is not kind:
            self.close()
            self._kind, self._tell = kind, self.enter_context(kind())
        self._tell(*news)

    def download(self, name: str, done: int, total: int) -> None:
        self._show(reading, name, done, total)

    def tell(self, done: int, total: int) -> None:
        self._show(measuring, done, total)

    def start(self, total: int) -> None:
        """Begin with the weights, which have `total` bytes."""
        self._done, self._total = 0, total

    def advance(self, name: str, count: int) -> None:
        self._done += count
        self._show(reading, name, self._done, self._total)


@contextmanager
def training(steps: int) -> Iterator[Callable[["Report"], None]]:
    """Show a bar over steps with the last report next to it. Without a terminal, print a line for each report."""
    with _bars(BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=steps)

        def tell(report: "Report") -> None:
            if can_draw(sys.stderr):
                progress.update(task, completed=report.step, description=_numbers(report))
            if not can_draw(sys.stderr) or report.valid is not None:
                note(f"step {report.step}  {_numbers(report)}")

        yield tell


def _numbers(report: "Report") -> str:
    valid = "" if report.valid is None else f"  valid {report.valid:.4f}"
    news = "".join(f"  {name} {value:.3f}" for name, value in report.news.items())
    speed = f"{report.tokens_per_second:.0f} tokens/s  {format_bytes(report.memory)}"
    return f"loss {report.loss:.4f}{news}{valid}  rate {report.rate:.1e}  {speed}"
