"""What a request asks the engine for: an answer to a prompt, or the text of a hole.

Work is a generator that yields canvases to denoise, gets every step back, and reports how far it is. So the engine, and not
the work, takes the steps: many requests share its forwards, and each can leave between two steps.
"""

import time
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..config import GenerationConfig
from ..decoding.canvas import text_before
from ..decoding.hole_layout import unwrapped
from ..decoding.resizing import START
from ..decoding.result import Step, after_step
from ..forbidden import forbidden_ids
from ..generation import Answer, canvas_of, ends_of, prompt_ids, tokens_left
from ..infilling.context import Context
from ..infilling.fill import CONTEXT
from ..infilling.lengths import is_ended, rows_to_try
from ..infilling.middle import MiddlePrompt, middle_prompt
from ..infilling.task import InfillTask

if TYPE_CHECKING:
    import mlx.core as mx

    from ..decoding.canvas import Canvas
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer

MASK = "\u2592"
"""Stands for a mask in a canvas that is shown."""
LEAST_CONTEXT = 32
"""Tokens on each side of a hole that are shown whatever the deadline."""


class Lane(NamedTuple):
    """A canvas to denoise; the fields are the arguments of `Batch.add`."""

    canvas: "Canvas"
    config: GenerationConfig
    forbidden: "mx.array"
    stop: Callable[[Step], bool] | None = None
    copy: int = 0


Lanes = Generator[Lane | None, tuple[Step, bool], None]
"""It yields a canvas, or None to go on with the last one, and is sent each step and whether it was the canvas's last."""


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Attributes:
        text: what is certain to be part of the result.
        settled: the result if the work ended now: `text` or more.
        canvas: the whole text with its masks; empty unless the work `shows` it.
        reason: `stop` where the model ended the text, `word` where a stop text did, `length` where the room did, `time` where
            the deadline did; None while the work goes on.
        prompt_tokens, tokens: of the prompt, and of the text.
        cached: positions of the prompt that were not forwarded again.
        nfe, positions: forwards so far, and positions forwarded in them.
        first, seconds: seconds until the first step, and so far.
    """

    text: str = ""
    settled: str = ""
    canvas: str = ""
    reason: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    cached: int = 0
    nfe: int = 0
    positions: int = 0
    first: float = 0.0
    seconds: float = 0.0


class Work(Protocol):
    """A piece of work.

    Attributes:
        key: equal for work that gives the same text, which is then done once; None for work that is never shared.
        urgent: whether somebody waits for it while typing.
        deadline: seconds after which its text so far is the answer; None for no limit.
        progress: how far it is.
    """

    key: Hashable
    urgent: bool
    deadline: float | None
    progress: Progress

    def lanes(self, model: "DiffusionModel", tokenizer: "Tokenizer", pace: float) -> Lanes:
        """Do the work.

        Args:
            pace: seconds that a position takes, as measured so far; 0 if nothing was.

        Raises:
            DiffucoderError: the request cannot be fulfilled.
        """
        ...


@dataclass
class Clock:
    """Measures seconds from the start of the work: to the first step, and to now."""

    start: float = field(default_factory=time.perf_counter)
    first: float = 0.0

    def on(self, progress: Progress) -> Progress:
        """The progress with its times."""
        seconds = time.perf_counter() - self.start
        self.first = self.first or seconds
        return replace(progress, first=self.first, seconds=seconds)


@dataclass
class Answering:
    """An answer to a prompt.

    Attributes:
        prompt: makes the ids of the prompt, with those of the prefill of `config`.
        config: how to decode; its `max_tokens` is cut to what the model's context leaves.
        shows: whether somebody wants to see the canvas.
        copy: as in `Batch.add`.
    """

    prompt: Callable[["Tokenizer"], list[int]]
    config: GenerationConfig
    shows: bool = False
    copy: int = 0
    key: Hashable = None
    urgent: bool = False
    deadline: float | None = None
    progress: Progress = Progress()

    def lanes(self, model: "DiffusionModel", tokenizer: "Tokenizer", pace: float) -> Lanes:
        """As `Work.lanes`."""
        clock, config = Clock(), self.config.for_model(model)
        ids = self.prompt(tokenizer)
        room = tokens_left(model, tokenizer, ids)
        config = replace(config, max_tokens=min(config.max_tokens, max(1, room)))
        prompt_ids(model, tokenizer, ids, config)  # raises where nothing is left
        self.progress = Progress(prompt_tokens=len(ids))
        resizes = tokenizer.sizes is not None
        forbidden = forbidden_ids(tokenizer, model.config.vocab_size, config.ban_tokens, resizes=resizes)
        ended = False

        def stop(step: Step) -> bool:
            return bool(config.until) and Answer.of(tokenizer, step, len(ids), config).ended

        lane: Lane | None = Lane(canvas_of(tokenizer, [ids], config), config, forbidden, stop, self.copy)
        while not ended:
            step, ended = yield lane
            lane, answer = None, Answer.of(tokenizer, step, len(ids), config)
            progress = Progress(
                text=answer.text if ended else answer.final_text(config.until),
                settled=answer.text,
                canvas=shown(tokenizer, step.tokens[len(ids) :].tolist(), config) if self.shows else "",
                reason=reason_of(answer) if ended else None,
                prompt_tokens=len(ids),
                tokens=answer.useful_tokens,
                nfe=step.nfe,
                positions=step.positions,
            )
            self.progress = clock.on(progress)


@dataclass
class Filling:
    """The text of a hole, as `diffucode infill --tries 1` writes it.

    Attributes:
        prefix, suffix: the text around it.
        config: how to decode; `max_tokens` is the longest hole.
        context: tokens of the text to show on each side, at most.
        waits: seconds that the client waits for the context to be read; None for no limit.
        shows, copy: as in `Answering`.
    """

    prefix: str
    suffix: str
    config: GenerationConfig
    context: int = CONTEXT
    waits: float | None = None
    shows: bool = False
    copy: int = 0
    key: Hashable = None
    urgent: bool = True
    deadline: float | None = None
    progress: Progress = Progress()

    def lanes(self, model: "DiffusionModel", tokenizer: "Tokenizer", pace: float) -> Lanes:
        """As `Work.lanes`."""
        budget = self.context
        if pace and self.waits is not None:  # both sides are read before the first text
            budget = max(LEAST_CONTEXT, min(budget, int(self.waits / pace / 2)))
        until, config = self.config.until, replace(self.config, until=())
        if "infill" in model.family.cannot:
            asked = middle_prompt(model, tokenizer, self.around, None, config, budget)
            return self._in_the_middle(tokenizer, asked, until)
        return self._between(InfillTask(model, tokenizer, [*self.around], [None], config, None, budget, None), until)

    @property
    def around(self) -> tuple[str, str]:
        """The texts before and after the hole."""
        return self.prefix, self.suffix

    def _between(self, task: InfillTask, until: Sequence[str]) -> Lanes:
        """A hole for a model that sees both sides of it."""
        clock, before = Clock(), Progress(prompt_tokens=sum(map(len, task.context.ids)))
        forbidden = task.resizing_forbidden if task.resizes else task.forbidden
        for row in [[min(START, task.config.max_tokens)]] if task.resizes else rows_to_try(task):
            canvas, done = task.canvas([row]), False
            canvas = replace(canvas, sizes=task.tokenizer.sizes) if task.resizes else canvas
            lane: Lane | None = Lane(canvas, task.config, forbidden, None, self.copy)
            holes = canvas.holes[0]
            while not done:
                step, done = yield lane
                lane, holes = None, after_step(holes, step.deleted, step.expanded) if canvas.sizes else holes
                attempt = task.attempt(step.tokens, holes, 1)
                ((ids,), (ended,)) = attempt.ids, attempt.ended
                masked = step.tokens[slice(*holes[0])].tolist()
                self._tell(task.tokenizer, task.context, masked, ids, until, ended, added(before, step, clock))
            before = added(before, step, clock)
            if is_ended(task, attempt):
                break
        self._end("stop" if ended else "length")

    def _in_the_middle(self, tokenizer: "Tokenizer", asked: MiddlePrompt, until: Sequence[str]) -> Lanes:
        """A hole for a model that sees the text after it in its prompt."""
        clock, before, done = Clock(), Progress(prompt_tokens=sum(map(len, asked.shown.ids))), False
        lane: Lane | None = Lane(canvas_of(tokenizer, [asked.ids], asked.config), asked.config, asked.forbidden, None, self.copy)
        while not done:
            step, done = yield lane
            lane, answer = None, Answer.of(tokenizer, step, len(asked.ids), asked.config)
            masked = step.tokens[len(asked.ids) :].tolist()
            self._tell(tokenizer, asked.shown, masked, answer.ids, until, answer.ended, added(before, step, clock))
        self._end("stop" if answer.ended else "length")

    def _tell(
        self,
        tokenizer: "Tokenizer",
        context: Context,
        masked: list[int],
        ids: list[int],
        until: Sequence[str],
        ended: bool,
        progress: Progress,
    ) -> None:
        """Report a step: `masked` are the ids of the hole with its masks, `ids` those before the first mask or end token."""
        text, _ = text_before(until, "", ids, tokenizer.decode)
        settled = unwrapped(text, context.leads[0], context.tails[0])
        canvas = shown(tokenizer, masked, self.config) if self.shows else ""
        self.progress = replace(progress, settled=settled, canvas=canvas, tokens=len(ids) + ended)

    def _end(self, reason: str) -> None:
        text = without_repetition(self.progress.settled, self.suffix)
        self.progress = replace(self.progress, text=text, settled=text, reason=reason)


def reason_of(answer: Answer) -> str:
    """Why an answer ended: an end token counts as a useful token, a stop text does not."""
    if not answer.ended:
        return "length"
    return "word" if answer.useful_tokens == len(answer.ids) else "stop"


def added(before: Progress, step: Step, clock: Clock) -> Progress:
    """The progress after a step of a canvas that was begun after `before`."""
    return clock.on(replace(before, nfe=before.nfe + step.nfe, positions=before.positions + step.positions))


def shown(tokenizer: "Tokenizer", ids: list[int], config: GenerationConfig) -> str:
    """A text with its masks, up to its end token."""
    ends = ends_of(tokenizer, config)
    stop = next((place for place, id in enumerate(ids) if id in ends), len(ids))
    runs = groupby(ids[:stop], key=lambda id: id == tokenizer.mask_id)
    return "".join(MASK * len(run) if masks else tokenizer.decode(run) for masks, run in ((m, list(r)) for m, r in runs))


def without_repetition(text: str, suffix: str) -> str:
    """A hole's text without last lines that the text after it begins with, which would stand there twice."""
    lines, after = text.splitlines(keepends=True), suffix.lstrip("\n").splitlines(keepends=True)
    for count in range(min(len(lines), len(after)), 0, -1):
        if [one.rstrip() for one in lines[-count:]] == [one.rstrip() for one in after[:count]] and any(
            map(str.strip, after[:count])
        ):
            return "".join(lines[:-count])
    return text
