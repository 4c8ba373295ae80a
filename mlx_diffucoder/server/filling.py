"""The text of a hole, as work for the engine."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from ..config import GenerationConfig
from ..decoding.hole_layout import unwrapped
from ..decoding.resizing import START
from ..decoding.result import after_step
from ..decoding.windows import window_for
from ..decoding.windows.sliding import Sliding
from ..generation import Answer, canvas_of
from ..infilling.context import Context
from ..infilling.fill import CONTEXT
from ..infilling.lengths import is_ended, rows_to_try
from ..infilling.middle import MiddlePrompt, middle_prompt
from ..infilling.repetition import without_repetition
from ..infilling.task import InfillTask
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .kept import KeptTexts
from .work import Clock, Lane, Lanes, Progress, added, shown

SPARE = 16
"""Tokens of the model's context that neither a hole nor the text around it takes: those that mark what is what."""
LEAST_CONTEXT = 32
"""Tokens on each side of a hole that are shown whatever the deadline."""


@dataclass
class Filling:
    """The text of a hole, as `diffucode infill --tries 1` writes it.

    Attributes:
        prefix, suffix: the text around it.
        config: how to decode; `max_tokens` is the longest hole, and is cut to what the model's context leaves.
        context: tokens of the text to show on each side, at most.
        waits: seconds that the client waits for the context to be read; None for no limit.
        keeps: whether K/V of earlier holes may be used, and this one's are kept.
        warms: whether only the text around the hole is read, for the next request; the result is empty.
        shows, copy: as in `Answering`.
    """

    prefix: str
    suffix: str
    config: GenerationConfig
    context: int = CONTEXT
    waits: float | None = None
    keeps: bool = True
    warms: bool = False
    shows: bool = False
    copy: int = 0
    key: Hashable = None
    urgent: bool = True
    deadline: float | None = None
    progress: Progress = field(default_factory=Progress)

    def lanes(self, model: DiffusionModel, tokenizer: Tokenizer, pace: float, kept: KeptTexts) -> Lanes:
        """As `Work.lanes`."""
        limit = model.config.max_position_embeddings
        longest = min(self.config.max_tokens, max(limit // 4, limit - 2 * self.context - SPARE))
        budget = min(self.context, (limit - longest - SPARE) // 2)
        if pace and self.waits is not None:  # both sides are read before the first text
            budget = max(LEAST_CONTEXT, min(budget, int(self.waits / pace / 2)))
        until, config = self.config.until, replace(self.config, until=(), max_tokens=longest)
        if "infill" in model.family.cannot:
            asked = middle_prompt(model, tokenizer, self.around, None, config, budget)
            return self._in_the_middle(tokenizer, asked, until)
        return self._between(InfillTask(model, tokenizer, [*self.around], [None], config, None, budget, None), until, kept)

    @property
    def around(self) -> tuple[str, str]:
        """The texts before and after the hole."""
        return self.prefix, self.suffix

    def _between(self, task: InfillTask, until: Sequence[str], kept: KeptTexts) -> Lanes:
        """A hole for a model that sees both sides of it."""
        clock, before = Clock(), Progress(prompt_tokens=sum(map(len, task.context.ids)))
        window = window_for(task.config)
        keeping = kept.window(window) if self.keeps and isinstance(window, Sliding) and not task.resizes else None
        forbidden = task.resizing_forbidden if task.resizes else task.forbidden
        rows = [[min(START, task.config.max_tokens)]] if task.resizes else rows_to_try(task)
        for row in rows:
            canvas, done = task.canvas(row), False
            canvas = replace(canvas, sizes=task.tokenizer.sizes) if task.resizes else canvas
            lane: Lane | None = Lane(canvas, task.config, forbidden, None, self.copy, keeping)
            holes = canvas.holes
            while not done:
                step, done = yield lane
                if self.warms:
                    return
                if lane and keeping and not before.nfe:
                    before = replace(before, cached=max(0, canvas.tokens.size - step.positions))
                lane, holes = None, after_step(holes, step.deleted, step.expanded) if canvas.sizes else holes
                attempt = task.attempt(step.tokens, holes, 1)
                ((ids,), (ended,)) = attempt.ids, attempt.ended
                masked = step.tokens[slice(*holes[0])].tolist()
                stopped = self._tell(task.tokenizer, task.context, masked, ids, until, ended, added(before, step, clock))
                if stopped and row is rows[-1]:  # a text that is not ended may become another one in a longer hole
                    done = ended = True
            before = added(before, step, clock)
            if is_ended(task, attempt):
                break
        self._end(("word" if stopped else "stop") if ended else "length")

    def _in_the_middle(self, tokenizer: Tokenizer, asked: MiddlePrompt, until: Sequence[str]) -> Lanes:
        """A hole for a model that sees the text after it in its prompt."""
        clock, before, done = Clock(), Progress(prompt_tokens=sum(map(len, asked.shown.ids))), False
        lane: Lane | None = Lane(canvas_of(tokenizer, asked.ids, asked.config), asked.config, asked.forbidden, None, self.copy)
        while not done:
            step, done = yield lane
            lane, answer = None, Answer.of(tokenizer, step, len(asked.ids), asked.config)
            masked = step.tokens[len(asked.ids) :].tolist()
            if self._tell(tokenizer, asked.shown, masked, answer.ids, until, answer.ended, added(before, step, clock)):
                self._end("word")
                return
        self._end("stop" if answer.ended else "length")

    def _tell(
        self,
        tokenizer: Tokenizer,
        context: Context,
        masked: list[int],
        ids: list[int],
        until: Sequence[str],
        ended: bool,
        progress: Progress,
    ) -> bool:
        """Report a step. Returns whether there is a stop text.

        Args:
            masked: the ids of the hole with its masks.
            ids: those before the first mask or end token.
        """
        text = tokenizer.decode(ids)
        seen = unwrapped(text, context.leads[0], "")  # the blank before it is no part of the text
        stop = min((at for at in map(seen.find, until) if at >= 0), default=None)
        settled = unwrapped(text, context.leads[0], context.tails[0]) if stop is None else seen[:stop]
        canvas = shown(tokenizer, masked, self.config) if self.shows else ""
        settled = without_repetition(settled, self.suffix)
        self.progress = replace(progress, settled=settled, canvas=canvas, tokens=len(ids) + ended)
        return stop is not None

    def _end(self, reason: str) -> None:
        self.progress = replace(self.progress, text=self.progress.settled, reason=reason)
