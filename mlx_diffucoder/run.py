"""One generation that can be stopped: its steps, its answer so far, and its numbers."""

import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .config import GenerationConfig
from .decoding.result import TILE, Stats, Step
from .generation import Answer, Prompt, prompt_ids, stream_traced, tokens_left
from .models.transformer import DiffusionModel
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .best_of import Ranking
    from .infilling.fill import Filled


class Run:
    """One generation.

    Attributes:
        ids: the prompt's token ids.
        config: how it decodes, within the positions that the model has left.
        answer: what it has so far.
        seconds: how long `steps` took, until it ended or was closed.

    Args:
        name: of the model.
        trace: the file to write the steps to.
        tile: as in `Stats`.

    Raises:
        PromptError: the prompt is too long, or holds ids that the model does not have.
    """

    def __init__(
        self,
        name: str,
        model: DiffusionModel,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        prompt: Prompt,
        *,
        trace: Path | None = None,
        tile: int = TILE,
    ):
        self.name, self.model, self.tokenizer, self.tile = name, model, tokenizer, tile
        self.trace = (trace, name) if trace else None
        self.ids = prompt_ids(model, tokenizer, prompt, config)
        self.config = config.within(tokens_left(model, tokenizer, self.ids))
        self.answer, self.seconds = Answer(), 0.0
        self._last: Step | None = None

    def steps(self) -> Generator[Step, None, None]:
        """Generate. `answer` and the numbers are those of the last step that was yielded."""
        start = time.perf_counter()
        try:
            with closing(stream_traced(self.model, self.tokenizer, self.ids, self.config, self.trace)) as steps:
                for step in steps:
                    self._last, self.answer = step, Answer.of(self.tokenizer, step, len(self.ids), self.config)
                    yield step
        finally:
            self.seconds = time.perf_counter() - start

    @property
    def stats(self) -> Stats:
        last = self._last
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


def stats_of(made: "Filled | Ranking", seconds: float, tile: int) -> Stats:
    """The numbers of texts that were made in `seconds`, with MLX's peak memory."""
    return _stats(made.nfe, made.positions, made.rows, made.useful_tokens, seconds, tile)


def _stats(nfe: int, positions: int, rows: tuple[int, ...], useful_tokens: int, seconds: float, tile: int) -> Stats:
    return Stats(
        nfe=nfe,
        positions=positions,
        useful_tokens=useful_tokens,
        seconds=seconds,
        peak_memory_bytes=mx.get_peak_memory(),
        rows=Counter(rows),
        tile=tile,
    )
