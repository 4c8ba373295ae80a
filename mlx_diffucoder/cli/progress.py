"""Progress of long work: bars on stderr if it is a terminal, and the canvas or the text of a generation."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
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
from .terminal import can_draw, is_file, is_live, note, put

if TYPE_CHECKING:
    from ..decoding.result import Step
    from ..run import Run
    from ..training.trainer import Report


def _bars(*columns: ProgressColumn) -> Progress:
    """Bars on stderr if it is a terminal. They leave stdout alone, for it may be a file."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not can_draw(sys.stderr))


@contextmanager
def counting(what: str, total: int | None, about: object = "") -> Iterator[Callable[[float], None]]:
    """Show a bar; without a total, only the count. Yields a function that advances it by a count.

    Args:
        about: its text, which may change, stands next to the bar.
    """
    detail = TextColumn("{task.fields[about]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    with _bars(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), detail) as progress:
        task = progress.add_task(what, total=total, about=about)
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


def follow(run: "Run", *, stream: bool, live: bool) -> tuple[KeyboardInterrupt | None, dict[str, str]]:
    """Generate, and show the canvas on a terminal or stream the text.

    Args:
        stream: print the text on stdout.
        live: show the canvas if stdout and stderr are terminals.

    Returns:
        The Ctrl-C or SIGTERM that stopped it, if one did, and what `-v` prints of it besides the run's numbers.
    """
    canvas = is_live(live and stream)
    stopped, written, lines = None, "", dict[str, str]()
    try:
        with _canvas(run, lines) if canvas else _denoising(run, stream=stream) as show, closing(run.steps()) as steps:
            for step in steps:
                show(step)
                if stream and not canvas:
                    text = run.answer.final_text(run.config.until)
                    put(text[len(written) :], end="", flush=True)
                    written = text
    except KeyboardInterrupt as stop:
        stopped = stop
    if stream:
        rest = run.answer.text[len(written) :]
        put(rest, end="" if (written + rest).endswith("\n") else "\n", flush=True)
    return stopped, lines


@contextmanager
def _canvas(run: "Run", lines: dict[str, str]) -> "Iterator[Callable[[Step], None]]":
    """Show the canvas, and add the time that this took to `lines`."""
    from ..choices import block_length_of
    from ..generation import canvas_of
    from .live_view import Live

    canvas = canvas_of(run.tokenizer, run.ids, run.config)
    given = len(run.tokenizer.encode_plain(run.config.prefill))
    with Live(canvas, run.tokenizer.piece, given, block_length=block_length_of(run.config.window)) as view:
        try:
            yield view.show
        finally:
            lines["drawing the canvas"] = f"{100 * view.spent / max(run.seconds, 1e-9):.2f} % of the time"


@contextmanager
def _denoising(run: "Run", *, stream: bool) -> "Iterator[Callable[[Step], None]]":
    """Show a bar on stderr, unless the answer itself may appear on the same terminal."""
    if not sys.stderr.isatty() or (stream and not is_file(sys.stdout)):
        yield lambda step: None
    else:
        with counting("denoising", run.config.max_tokens) as advance:
            yield lambda step: advance(len(step.committed))
