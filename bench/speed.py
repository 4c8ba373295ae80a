"""How fast a network is here: forwards by their positions, the parts of a step, and whole generations."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_diffucoder.canvas import Canvas
from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.denoise import denoise
from mlx_diffucoder.generation import Answer, forbidden_ids, stream_generate, wired_memory
from mlx_diffucoder.model import Dream
from mlx_diffucoder.rules import policy_for
from mlx_diffucoder.sights import Sight, View
from mlx_diffucoder.trace import Stats
from mlx_diffucoder.windows import Window, window_for

from .ceilings import Ceilings
from .networks import Measured
from .roofline import Work, matmul_seconds, weights_seconds
from .timing import Timing, timings

PARTS = ("forward", "lm_head", "sampling", "host")


def ideal_seconds(ceilings: Ceilings, work: Work, positions: float) -> float:
    """What a forward takes at the ceilings, with no overhead: the roofline that shares are of."""
    return max(weights_seconds(ceilings, work), matmul_seconds(ceilings, work, positions))


def forward_curve(measured: Measured, widths: list[int], trials: int, delay: float) -> Iterator[tuple[int, Timing]]:
    """A forward of each width through all layers and `lm_head`, with no keys and values kept."""
    for width in widths:
        tokens = mx.random.randint(0, len(measured.tokenizer.known_ids), (1, width), key=mx.random.key(0))

        def work(tokens: mx.array = tokens) -> None:
            mx.eval(measured.model(tokens))

        with wired_memory():
            took = timings(work, trials, delay)
        yield width, took


class Clock:
    """Seconds by part of the step that is running, and those of the steps that are done.

    A step goes from one decision to the next: the loop forwards for the next step before it shows this one.
    """

    def __init__(self) -> None:
        self.now = dict.fromkeys(PARTS, 0.0)
        self.decides_since: float | None = None
        self.began = time.perf_counter()
        self.steps: list[dict[str, float]] = []

    def decided(self) -> None:
        """The host has the decision: what was not `lm_head` since the first logits was sampling, and the rest the host's."""
        ended = time.perf_counter()
        if self.decides_since is not None:
            self.now["sampling"] = ended - self.decides_since - self.now["lm_head"]
        self.now["host"] = ended - self.began - sum(self.now.values())
        self.steps.append(self.now)
        self.now, self.decides_since, self.began = dict.fromkeys(PARTS, 0.0), None, ended


class Probe:
    """A network in whose place it stands for one run, waiting for each part and timing it."""

    def __init__(self, model: Dream, clock: Clock):
        self._model, self._clock = model, clock
        self.config = model.config

    def model(self, *given: Any) -> mx.array:
        return self._timed(self._model.model, *given)

    def window(self, *given: Any) -> Any:
        return self._timed(self._model.window, *given)

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
    """A window that tells the clock when a decision has been made."""

    def __init__(self, window: Window, clock: Clock):
        self._window, self._clock = window, clock
        self.stops = window.stops

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return self._window.extent(prompt, masks)

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return _WatchedSight(self._window.open(model, canvas), self._clock)


class _WatchedSight:
    def __init__(self, sight: Sight, clock: Clock):
        self._sight, self._clock = sight, clock

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> View:
        return self._sight.look(tokens, known, again, every=every)

    def guess(self, positions: NDArray[np.int32], tokens: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        self._clock.decided()
        self._sight.guess(positions, tokens, scores)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Seconds of a step, whole and by part: the mean over all steps but the first of each prompt, which encodes it.

    The parts are timed in runs of their own, in which each is waited for; so their sum is near the step's, not
    the same.

    Attributes:
        sum_over_step: the parts' sum over the step measured without them, the median over trials: 1 where all is
            accounted for.
        encoding: the first forward of the first prompt, which has its `prompt` tokens in it.
        steps: how many steps are in the mean.
    """

    step: Timing
    parts: dict[str, float]
    sum_over_step: float
    encoding: Timing
    prompt: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def split_of(measured: Measured, prompts: list[list[int]], config: GenerationConfig, trials: int, delay: float) -> Split:
    """Where the time of a step goes, in turns with whole steps, after a run of each that does not count."""
    whole, parts, encodings, count = list[float](), list[dict[str, float]](), list[float](), 0
    for trial in range(trials + 1):
        time.sleep(delay if trial else 0)
        plain = [_steps(measured, ids, config, probed=False) for ids in prompts]
        probed = [_steps(measured, ids, config, probed=True) for ids in prompts]
        if trial:
            later = _later(plain)
            count = len(later)
            whole.append(float(np.mean([sum(step.values()) for step in later])))
            parts.append({part: float(np.mean([step[part] for step in _later(probed)])) for part in PARTS})
            encodings.append(probed[0][0]["forward"])
    return Split(
        step=Timing.of(whole),
        parts={part: median(one[part] for one in parts) for part in PARTS},
        sum_over_step=median(sum(one.values()) / step for one, step in zip(parts, whole, strict=True)),
        encoding=Timing.of(encodings),
        prompt=len(prompts[0]),
        steps=count,
    )


def _later(runs: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """All steps but the first of each run; where no run has another, the first."""
    return [step for run in runs for step in run[1:]] or [run[0] for run in runs]


def _steps(measured: Measured, ids: list[int], config: GenerationConfig, *, probed: bool) -> list[dict[str, float]]:
    """The steps of one generation by part; all is the host's where it is not probed."""
    model, tokenizer, clock = measured.model, measured.tokenizer, Clock()
    network = cast(Dream, Probe(model, clock)) if probed else model
    window = Watched(window_for(config), clock)
    canvas = Canvas.of([ids], config.max_tokens, mask_id=tokenizer.mask_id, pad_id=tokenizer.pad_id, end_ids=tokenizer.end_ids)
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size)
    mx.eval(forbidden)
    with wired_memory():
        clock.began = time.perf_counter()
        for _ in denoise(network, canvas, policy_for(config), window, config, forbidden=forbidden):
            pass
    return clock.steps


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One prompt's generation, the same work in every trial.

    Attributes:
        stats: its counts, with the median's seconds.
        first: seconds until the first token at the left could no longer change.
        ideal: seconds at the ceilings: each forward's own.
    """

    prompt: int
    stats: Stats
    time: Timing
    first: Timing
    ideal: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        own = {"prompt_tokens": self.prompt, "time": self.time.to_dict(), "first_settled": self.first.to_dict()}
        return {**self.stats.to_dict(), **own, "roofline_share": self.ideal / self.time.seconds}


def generation_of(
    measured: Measured, ids: list[int], config: GenerationConfig, ceilings: Ceilings, trials: int, delay: float
) -> Generation:
    """A whole generation, as `generate` does it, after one that does not count."""
    mx.reset_peak_memory()
    runs = []
    for trial in range(trials + 1):
        time.sleep(delay if trial else 0)
        runs.append(_generate(measured, ids, config))
    work, last, forwards = measured.work, runs[-1].last, runs[-1].forwards
    total = Timing.of([run.seconds for run in runs[1:]])
    return Generation(
        prompt=len(ids),
        stats=Stats(
            nfe=last.nfe,
            positions=last.positions,
            useful_tokens=Answer.of(measured.tokenizer, last, len(ids)).useful_tokens,
            seconds=total.seconds,
            peak_memory_bytes=mx.get_peak_memory(),
        ),
        time=total,
        first=Timing.of([run.first for run in runs[1:]]),
        ideal=sum(count * ideal_seconds(ceilings, work, each) for count, each in forwards),
    )


@dataclass(frozen=True)
class _Run:
    seconds: float
    first: float
    last: Any
    forwards: list[tuple[int, float]]  # of each step: forwards, and positions of each


def _generate(measured: Measured, ids: list[int], config: GenerationConfig) -> _Run:
    start, first, nfe, positions, step = time.perf_counter(), 0.0, 0, 0, None
    forwards = []
    for step in stream_generate(measured.model, measured.tokenizer, ids, config):
        if not first and step.tokens[len(ids)] != measured.tokenizer.mask_id:
            first = time.perf_counter() - start
        if fresh := step.nfe - nfe:
            forwards.append((fresh, (step.positions - positions) / fresh))
        nfe, positions = step.nfe, step.positions
    return _Run(time.perf_counter() - start, first, step, forwards)
