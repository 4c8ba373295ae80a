"""One generation on a terminal or through a pipe; `generate` and `chat` share it."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import put
from .terminal import is_file, is_live, print_numbers

if TYPE_CHECKING:
    from ..best_of import Ranking
    from ..decoding.result import Stats, Step
    from ..generation import Prompt
    from ..infilling.fill import Filled
    from .model_option import Opened


class Run:
    """One generation: shows the canvas on a terminal or streams the text, and then has the numbers.

    Args:
        stream: print the text on stdout.
        live: show the canvas if stdout and stderr are terminals.
        trace: the file to write the steps to.
        tile: as in `Stats`.
    """

    def __init__(self, opened: "Opened", prompt: "Prompt", *, stream: bool, live: bool, trace: Path | None, tile: int = 32):
        from ..generation import Answer, prompt_ids, tokens_left

        self.name, self.model, self.tokenizer, self.config = opened
        self.stream, self.trace = stream, (trace, self.name) if trace else None
        self.live = is_live(live and stream)
        self.streams = stream and not self.live
        self.ids = prompt_ids(self.model, self.tokenizer, prompt, self.config)
        self.config = self.config.within(tokens_left(self.model, self.tokenizer, self.ids))
        self.answer, self.tile = Answer(), tile
        self.last: Step | None = None
        self.seconds = self.drawing = 0.0

    def go(self) -> KeyboardInterrupt | None:
        """Generate. Returns the Ctrl-C or SIGTERM that stopped it, if one did."""
        from ..generation import Answer, stream_traced

        coming = stream_traced(self.model, self.tokenizer, self.ids, self.config, self.trace)
        written = ""
        stopped = None
        start = time.perf_counter()
        try:
            with self._view() as show, closing(coming) as steps:
                start = time.perf_counter()  # without the time to import the view
                for step in steps:
                    self.last, self.answer = step, Answer.of(self.tokenizer, step, len(self.ids), self.config)
                    show(step)
                    if self.streams:
                        text = self.answer.final_text(self.config.until)
                        put(text[len(written) :], end="", flush=True)
                        written = text
        except KeyboardInterrupt as stop:
            stopped = stop
        self.seconds = time.perf_counter() - start
        if self.stream:
            rest = self.answer.text[len(written) :]
            put(rest, end="" if (written + rest).endswith("\n") else "\n", flush=True)
        return stopped

    @property
    def stats(self) -> "Stats":
        last = self.last
        counts = (last.nfe, last.positions, last.rows) if last else (0, 0, ())
        return _stats(*counts, self.answer.useful_tokens, self.seconds, self.tile)

    def report(self, *, interrupted: bool) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "text": self.answer.text,
            "tokens": self.answer.ids,
            "finish_reason": "interrupted" if interrupted else "stop" if self.answer.ended else "length",
            "unresolved_masks": self.answer.unresolved_masks,
            "model": self.name,
            "prompt_tokens": len(self.ids),
            **self.stats.to_dict(),
            "config": self.config.to_dict(),
        }

    def print_numbers(self) -> None:
        """Print the numbers of `-v` on stderr."""
        lines = self.stats.lines()
        if self.live:
            lines["drawing the canvas"] = f"{100 * self.drawing / self.seconds:.2f} % of the time"
        print_numbers(lines)

    @contextmanager
    def _view(self) -> "Iterator[Callable[[Step], None]]":
        """Show the canvas, or else a bar on stderr, unless the answer itself may appear on the same terminal."""
        if self.live:
            from ..choices import block_length_of
            from ..generation import canvas_of
            from .live_view import Live

            canvas = canvas_of(self.tokenizer, [self.ids], self.config)
            given = len(self.tokenizer.encode_plain(self.config.prefill))
            with Live(canvas, self.tokenizer.piece, given, block_length=block_length_of(self.config.window)) as view:
                try:
                    yield view.show
                finally:
                    self.drawing = view.spent
        elif not sys.stderr.isatty() or (self.streams and not is_file(sys.stdout)):
            yield lambda step: None
        else:
            from .progress import counting

            with counting("denoising", self.config.max_tokens) as advance:
                yield lambda step: advance(len(step.committed))


def stats_of(made: "Filled | Ranking", seconds: float, tile: int) -> "Stats":
    """The numbers of texts that were made in `seconds`, with MLX's peak memory."""
    return _stats(made.nfe, made.positions, made.rows, made.useful_tokens, seconds, tile)


def _stats(nfe: int, positions: int, rows: tuple[int, ...], useful_tokens: int, seconds: float, tile: int) -> "Stats":
    import mlx.core as mx

    from ..decoding.result import Stats

    return Stats(
        nfe=nfe,
        positions=positions,
        useful_tokens=useful_tokens,
        seconds=seconds,
        peak_memory_bytes=mx.get_peak_memory(),
        rows=Counter(rows),
        tile=tile,
    )
