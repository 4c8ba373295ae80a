"""The live view: shows the canvas on a terminal while it is denoised, and erases it afterwards."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from rich.cells import cell_len
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style

from ..decoding.canvas import count_up_to_end
from ..trace.cells import ASCII, Marks, cells_of
from ..trace.screen import QUIET, Styled, action, highlighter, page, paint, status, wrap

if TYPE_CHECKING:
    from ..decoding.canvas import Canvas
    from ..decoding.result import Step

FRAMES = 20  # the most frames per second
SHARE = 0.02  # the largest share of time to spend on drawing


class Live:
    """Draws steps on stderr, which must be a terminal, as often as `SHARE` and `FRAMES` allow.

    The next forward already runs while a step is drawn (see `denoise`). On a CPU the two compete, so the time
    for drawing is bounded.

    Args:
        canvas: the canvas before the first step. It is shown from the start of the answer or the text.
        piece: returns the bytes that a token adds to a text.
        given: number of known tokens to show before the first mask.
        share: the largest share of time to spend on drawing.
        block_length: positions in a block, where the canvas is filled block after block; 0 where it is not.
    """

    def __init__(
        self, canvas: "Canvas", piece: Callable[[int], bytes], given: int = 0, share: float = SHARE, block_length: int = 0
    ):
        console = Console(stderr=True)
        self._painter, self._share = Painter(console), share
        self._start = canvas.start - given
        self._holes = canvas.holes - self._start
        self._tokens = self._drawn = canvas.tokens[self._start :]
        self._mask_id, self._ends, self._block_length = canvas.mask_id, canvas.end_ids, block_length
        self._piece = cache(piece)
        self._marks = Marks() if console.encoding.startswith("utf") else ASCII
        self._highlight = highlighter()
        self._fresh: set[int] = set()
        self._remasked: set[int] = set()
        self._guesses: dict[int, int] = {}
        self._nfe, self._top = 0, 0
        self._inserted, self._deleted = 0, 0
        self._began = self._due = 0.0
        self._costs: deque[float] = deque(maxlen=3)
        self.spent = 0.0  # seconds spent on drawing
        self._highlight("def f():\n")  # loads the highlighter before the clock starts

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._painter.erase()

    def show(self, step: "Step") -> None:
        """Take a step, and draw it if enough time has passed."""
        if len(step.deleted) or len(step.expanded):
            self._resize(step)
        committed, remasked = ((one - self._start).tolist() for one in (step.committed, step.remasked))
        self._fresh = (self._fresh | set(committed)) - set(remasked)
        self._remasked = (self._remasked | set(remasked)) - set(committed)
        self._guesses = {place - self._start: token for place, token in step.rejected.tolist()}
        self._tokens, self._nfe = step.tokens[self._start :], step.nfe
        if time.perf_counter() >= self._due:
            self._draw()

    def _resize(self, step: "Step") -> None:
        """Move what is marked with the canvas, and mark the masks that are new."""
        from ..decoding.result import after_step

        changes = (step.deleted, step.expanded)

        def moved(positions: set[int]) -> set[int]:
            left = np.array(sorted(positions), dtype=np.int32) + self._start
            return set((after_step(left[~np.isin(left, step.deleted)], *changes) - self._start).tolist())

        self._holes = after_step(self._holes + self._start, *changes) - self._start
        new = after_step(step.expanded, *changes) - self._start
        self._fresh = moved(self._fresh)
        self._remasked = moved(self._remasked) | set(new.tolist()) | set((new + 1).tolist())
        self._inserted += len(step.expanded)
        self._deleted += len(step.deleted)

    def wait(self, until: float) -> None:
        """Sleep until `until` (of `time.perf_counter`), drawing the last step if it is not drawn yet."""
        if self._drawn is not self._tokens and self._due < until:
            time.sleep(max(0.0, self._due - time.perf_counter()))
            self._draw()
        time.sleep(max(0.0, until - time.perf_counter()))

    def _draw(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        width, height = self._painter.size()
        special = (self._fresh, self._remasked, self._marks, self._guesses)
        cells = cells_of(self._tokens.tolist(), self._piece, self._mask_id, *special)
        rows = wrap(paint(cells, self._highlight), width)
        height = max(1, height - 2)  # one row for the status, one for the prompt of the shell
        self._top = page(self._top, height, len(rows), action(rows))
        shown = rows[self._top : self._top + height]
        frame = self._painter.frame([*shown, [(self._status(len(shown), len(rows), width, now), QUIET)]])
        self._fresh, self._remasked, self._drawn = set(), set(), self._tokens
        # The time taken from the decoder: this thread's work, and the wait for a slow terminal.
        cost, ready = time.thread_time() - cpu, time.perf_counter()
        self._painter.write(frame)
        after = time.perf_counter()
        self._costs.append(cost + after - ready)
        self.spent += self._costs[-1]
        # The minimum ignores frames during which the machine was busy with something else.
        self._due = after + max(1 / FRAMES, min(self._costs) / self._share)

    def _status(self, shown: int, rows: int, width: int, now: float) -> str:
        holes = (self._tokens[start:stop] for start, stop in self._holes)
        counts = [count_up_to_end(hole, mask_id=self._mask_id, end_ids=self._ends) for hole in holes]
        useful, masks = map(sum, zip(*counts, strict=True))
        seconds = now - self._began
        parts = [
            f"{self._nfe} forward" + "s" * (self._nfe != 1),
            f"{useful / self._nfe if self._nfe else 0:.1f} tokens a forward",
            f"{useful / seconds if seconds else 0:.1f} tokens/s",
            f"{masks} to go",
        ]
        if self._block_length and masks:
            at = self._start + int((self._tokens == self._mask_id).argmax())
            first, last = self._start + self._holes[0][0], self._start + len(self._tokens) - 1
            first, block, last = (place // self._block_length for place in (first, at, last))
            parts.insert(1, f"block {block - first + 1} of {last - first + 1}")
        if self._inserted or self._deleted:
            parts.append(f"{self._inserted} inserted, {self._deleted} deleted")
        if shown < rows:
            parts.insert(1, f"lines {self._top + 1}-{self._top + shown} of {rows}")
        return status(parts, width, self._marks.between)


class Painter:
    """Rows at the bottom of a terminal, redrawn in place.

    `rich.live` redraws every row each time, and loses track of its rows when the terminal becomes narrower and
    wraps them.
    """

    def __init__(self, console: Console):
        self._console = console
        self._colours = COLOR_SYSTEMS.get(console.color_system or "")
        self._rows: list[tuple[str, int]] = []  # rows as written, and their widths in columns
        self._width = 0

    def size(self) -> tuple[int, int]:
        """The current columns and rows of the terminal."""
        columns, rows = os.get_terminal_size(self._console.file.fileno())
        return columns or 80, rows or 24

    def frame(self, rows: Sequence[Styled]) -> str:
        """The text that replaces the current rows; the cursor stays in the last one."""
        width, _ = self.size()
        new = [("".join(self._styled(*piece) for piece in row), sum(cell_len(text) for text, _ in row)) for row in rows]
        # No wrapping, even if the terminal takes a character to be wider than we do.
        out = ["" if self._rows else "\x1b[?25l", "\x1b[?7l", self._up(width)]
        if width != self._width:
            out.append("\x1b[J")
            self._rows, self._width = [], width
        elif len(new) < len(self._rows):
            out.append(f"\x1b[{len(new)}B\x1b[J\x1b[{len(new)}A")
        for place, row in enumerate(new):
            if self._rows[place : place + 1] != [row]:
                out.append("\x1b[2K" + row[0])
            out.append("\r\n" if place < len(new) - 1 else "")
        out.append("\r\x1b[?7h")
        self._rows = new
        return "".join(out)

    def erase(self) -> None:
        """Erase the rows and show the cursor again."""
        if self._rows:
            self.write(self._up(self.size()[0]) + "\x1b[J\x1b[?25h")
            self._rows = []

    def _up(self, width: int) -> str:
        """Move to the first row. A narrower terminal has wrapped rows that became too long."""
        count = sum(max(1, -(-columns // width)) for _, columns in self._rows[:-1])
        return f"\r\x1b[{count}A" if count else "\r"

    def _styled(self, text: str, style: Style) -> str:
        style = style.without_color if self._console.no_color else style
        return style.render(text, color_system=self._colours)

    def write(self, text: str) -> None:
        """Write to the terminal and flush."""
        self._console.file.write(text)
        self._console.file.flush()
