"""How fast a model is on this machine: the time of forwards by their rows, and the parts of a step."""

import time
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.decoding.windows.base import Forward, ForwardOutput, StepResult, Window, WindowState
from mlx_diffucoder.device import synchronized
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.models.kv import LayerKV, PositionedKVCache
from mlx_diffucoder.models.transformer import DiffusionModel

from .ceilings import Ceilings
from .decoders import canvas_of, rule_of
from .roofline import ideal_seconds
from .subjects import Subject
from .timing import Spread, Timing

PARTS = ("forward", "lm_head", "sampling", "host")
LABELS = {"forward": "layers", "lm_head": "lm_head", "sampling": "sampling", "host": "host"}
"""The parts of a step, for people; a forward without `lm_head` is the layers."""
LONG_ENOUGH = 0.05
"""Seconds: in a trial, a forward is repeated until it has been timed for this long, or `MOST_REPEATS` times."""
MOST_REPEATS = 10
CANVAS = 256
"""Positions of text, cached but for the rows of a forward: those of a prompt and an answer."""


class ForwardCurve:
    """The time of a forward of each number of rows as `generate` runs it: next to cached text, through all layers and `lm_head`.

    Args:
        widths: in rows. They are the last ones of a canvas of at least `CANVAS` positions, all of which are attended to.
    """

    name = "forwards"

    def __init__(self, subject: Subject, widths: list[int]):
        known = len(subject.tokenizer.known_ids)
        self._model, self._length = subject.model, max(CANVAS, *widths)
        self._tokens = mx.random.randint(0, known, (1, self._length), key=mx.random.key(0))
        self._cache: LayerKV = []
        self._seconds: dict[int, list[float]] = {width: [] for width in widths}

    def warm_up(self) -> None:
        hidden, self._cache = self._window(self._length)
        mx.eval(hidden, self._cache)
        for width in self._seconds:
            self._forward(width)

    def trial(self, delay: float) -> None:
        with synchronized():
            for width, seconds in self._seconds.items():
                taken = list[float]()
                while sum(taken) < LONG_ENOUGH and len(taken) < MOST_REPEATS:
                    time.sleep(delay)
                    start = time.perf_counter()
                    self._forward(width)
                    taken.append(time.perf_counter() - start)
                seconds += taken

    def _forward(self, width: int) -> None:
        mx.eval(self._model.logits(self._window(width)[0]))

    def _window(self, width: int) -> tuple[mx.array, LayerKV]:
        at = mx.arange(self._length - width, self._length)[None]
        attended = mx.ones((1, 1, 1, self._length), dtype=mx.bool_)
        kv = PositionedKVCache(at, self._length, self._cache)
        return self._model.model(self._tokens[:, -width:], at, attended, kv), kv.layers

    @property
    def timings(self) -> dict[int, Timing]:
        """The timing of each width."""
        return {width: Timing.of(seconds) for width, seconds in self._seconds.items()}


def forward_rows(curve: ForwardCurve, subject: Subject, ceilings: Ceilings) -> list[dict[str, Any]]:
    """A curve ready for JSON, with the share of the roofline that each number of rows reached."""
    rows = list[dict[str, Any]]()
    for width, took in curve.timings.items():
        share = ideal_seconds(ceilings, subject.forwarded, width) / took.seconds
        rows.append({"rows": width, "time": asdict(took), "roofline_share": share})
    return rows


class Clock:
    """Seconds of the current step by part, and those of the finished steps.

    A step lasts from one decision to the next, because the loop starts the next forward before it yields a step.
    """

    def __init__(self) -> None:
        self.now = dict.fromkeys(PARTS, 0.0)
        self.decides_since: float | None = None
        self.began = time.perf_counter()
        self.steps: list[dict[str, float]] = []
        self.gaps: list[float] = []

    def queued(self) -> None:
        """Count the time since the last decision as a gap: a GPU has had nothing to do."""
        if self.steps:
            self.gaps.append(time.perf_counter() - self.began)

    def decided(self) -> None:
        """End the step: the time since the first logits is sampling, less `lm_head`; the rest is the host's."""
        ended = time.perf_counter()
        if self.decides_since is not None:
            self.now["sampling"] = ended - self.decides_since - self.now["lm_head"]
        self.now["host"] = ended - self.began - sum(self.now.values())
        self.steps.append(self.now)
        self.now, self.decides_since, self.began = dict.fromkeys(PARTS, 0.0), None, ended


class Probe:
    """Stands in for a model during one run, waits for each part of a forward and times it."""

    def __init__(self, model: DiffusionModel, clock: Clock):
        self._model, self._clock = model, clock
        self.config, self.family, self.shift = model.config, model.family, model.shift
        self.model = partial(self._timed, model.model)

    def _timed(self, forward: Any, *given: Any) -> Any:
        mx.eval([one for one in given if isinstance(one, mx.array)])
        start = time.perf_counter()
        out = forward(*given)
        mx.eval(out)
        self._clock.now["forward"] += time.perf_counter() - start
        return out

    def logits(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        start = time.perf_counter()
        if self._clock.decides_since is None:
            self._clock.decides_since = start
        out = self._model.logits(hidden, rows)
        mx.eval(out)
        self._clock.now["lm_head"] += time.perf_counter() - start
        return out


class Watched:
    """A window that tells the clock when a step has been decided."""

    def __init__(self, window: Window, clock: Clock):
        self._window, self._clock = window, clock
        self.name, self.parameters, self.stops_at_end = window.name, window.parameters, window.stops_at_end
        self.extent, self.guesses = window.extent, window.guesses
        self.check = window.check

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return _WatchedState(self._window.open(model, canvas), self._clock)


class _WatchedState:
    def __init__(self, state: WindowState, clock: Clock):
        self._state, self._clock = state, clock

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        output = yield from self._state.forward(tokens)
        self._clock.queued()
        return output

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        self._clock.decided()
        return self._state.observe(output, result)


class Splitting:
    """Where the time of a step goes: runs of whole steps, and runs that wait for every part.

    Args:
        prompts: ids of each prompt.
        rate: the tokens per forward to assume; None measures them.
    """

    name = "the parts of a step"

    def __init__(self, subject: Subject, prompts: list[list[int]], config: GenerationConfig, rate: float | None = None):
        self._subject, self._prompts, self._config, self._rate = subject, prompts, config, rate
        self._whole, self._parts, self._encodings, self._count = list[float](), list[dict[str, float]](), list[float](), 0
        self._gaps = list[float]()

    def warm_up(self) -> None:
        self._runs(probed=False)
        self._runs(probed=True)

    def trial(self, delay: float) -> None:
        time.sleep(delay)
        plain, probed = self._runs(probed=False), self._runs(probed=True)
        later = _later(plain)
        self._count = len(later)
        self._whole.append(float(np.mean([sum(step.values()) for step in later])))
        self._parts.append({part: float(np.mean([step[part] for step in _later(probed)])) for part in PARTS})
        self._encodings.append(probed[0].steps[0]["forward"])
        self._gaps.append(float(np.mean([gap for clock in plain for gap in clock.gaps] or [0.0])))

    def _runs(self, *, probed: bool) -> list[Clock]:
        return [_timed(self._subject, ids, self._config, self._rate, probed=probed) for ids in self._prompts]

    def to_dict(self) -> dict[str, Any]:
        """Seconds of a step, whole and by part, ready for JSON: the mean over all steps but the first of each prompt.

        The parts are timed in separate runs that wait for each part, so their sum is close to the step's time, not equal
        to it.

        Returns:
            `step`, of a run that waits for no part; `parts`, the median seconds of each of `PARTS`; `sum_over_step`, the
            sum of the parts over the step, trial by trial: 1 if everything is accounted for, and with a wide spread on a
            machine with other work; `gap`, from a decision until the next forward is queued, in the runs that wait for no
            part: a GPU has nothing to do meanwhile; `encoding`, of the first forward of the first prompt, which includes
            its `prompt` tokens; `steps`, the number of steps in the mean.
        """
        sums = [sum(one.values()) / step for one, step in zip(self._parts, self._whole, strict=True)]
        return {
            "step": asdict(Timing.of(self._whole)),
            "parts": {part: median(one[part] for one in self._parts) for part in PARTS},
            "sum_over_step": asdict(Spread.of(sums)),
            "gap": asdict(Timing.of(self._gaps)),
            "encoding": asdict(Timing.of(self._encodings)),
            "prompt": len(self._prompts[0]),
            "steps": self._count,
        }


def _later(runs: list[Clock]) -> list[dict[str, float]]:
    """All steps but the first of each run; if no run has a second step, the first ones."""
    return [step for run in runs for step in run.steps[1:]] or [run.steps[0] for run in runs]


def _timed(subject: Subject, ids: list[int], config: GenerationConfig, rate: float | None, *, probed: bool) -> Clock:
    """The steps of one answer by part; without probing, all the time is the host's."""
    model, clock = subject.model, Clock()
    probe = cast(DiffusionModel, Probe(model, clock)) if probed else model
    window = Watched(window_for(config), clock)
    canvas = canvas_of(subject, ids, config)
    forbidden = forbidden_ids(subject.tokenizer, model.config.vocab_size)
    mx.eval(forbidden)
    with synchronized():
        clock.began = time.perf_counter()
        for _ in denoise(probe, [canvas], rule_of(config, rate), window, config, forbidden=forbidden):
            pass
    return clock
