"""What a request asks the engine for: an answer to a prompt, or the text of a hole.

Work is a generator that yields canvases to denoise, gets every step back, and reports how far it is. So the engine, and not
the work, takes the steps: many requests share its forwards, and each can leave between two steps.
"""

import time
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..config import GenerationConfig
from ..decoding.result import Step
from ..forbidden import forbidden_ids
from ..generation import Answer, canvas_of, ends_of, prompt_ids, tokens_left
from .kept import KeptTexts

if TYPE_CHECKING:
    import mlx.core as mx

    from ..decoding.canvas import Canvas
    from ..decoding.windows.base import Window
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer

MASK = "\u2592"
"""Stands for a mask in a canvas that is shown."""


class Lane(NamedTuple):
    """A canvas to denoise; the fields are the arguments of `Batch.add`."""

    canvas: "Canvas"
    config: GenerationConfig
    forbidden: "mx.array"
    stop: Callable[[Step], bool] | None = None
    copy: int = 0
    window: "Window | None" = None  # None for the one of `config`


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

    def lanes(self, model: "DiffusionModel", tokenizer: "Tokenizer", pace: float, kept: KeptTexts) -> Lanes:
        """Do the work.

        Args:
            pace: seconds that a position takes, as measured so far; 0 if nothing was.
            kept: K/V of earlier canvases with holes.

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
    progress: Progress = field(default_factory=Progress)

    def lanes(self, model: "DiffusionModel", tokenizer: "Tokenizer", pace: float, kept: KeptTexts) -> Lanes:
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

        lane: Lane | None = Lane(canvas_of(tokenizer, ids, config), config, forbidden, stop, self.copy)
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
