"""Whole answers side by side: several decoders answer the same prompts in turns, in one run.

A speed is useful tokens per second, reported with the number of forwards (NFE), positions and tokens per forward. With
random weights no answer ends and no token is more certain than another. Every decoder then writes the same number of
tokens, and how many a forward commits is assumed and labelled as an assumption.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_diffucoder.arrays import from_numpy
from mlx_diffucoder.config import EPS, GenerationConfig
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.result import Step
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.rules.base import Candidates, CommitRule, WithoutMemory, largest
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.device import synchronized
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import Answer, decode, ends_of, stream_generate

from .ceilings import Ceilings
from .roofline import Work, ideal_seconds
from .subjects import Subject
from .timing import Spread, Timing

RATES = (1.0, 2.0, 4.0, 8.0)
"""Tokens per forward that are assumed of random weights by default."""
AUTOREGRESSIVE = "autoregressive"
"""The kind of the decoder that others are compared with."""
TIME_BUDGET = 60.0
"""Seconds: a decoder that has run for this long gets no further trial."""


@dataclass(frozen=True)
class AtRate(WithoutMemory):
    """Assumed commits: `rate` tokens per forward on average, from left to right, whatever the model predicts."""

    rate: float
    steps = None

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return np.minimum(masked, int((index + 1) * self.rate) - int(index * self.rate))

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        from_the_left = mx.where(candidates.masked, -from_numpy(candidates.positions), -mx.inf)
        return largest(from_the_left, quota)


def rule_of(config: GenerationConfig, rate: float | None) -> CommitRule:
    """The configuration's commit rule, or with a rate one that commits `rate` tokens per forward."""
    return rule_for(config) if rate is None else AtRate(rate)


def canvas_of(subject: Subject, ids: list[int], config: GenerationConfig) -> Canvas:
    """A prompt and its masks. With random weights no token ends the answer, since an end would be chance."""
    tokenizer = subject.tokenizer
    ends = frozenset[int]() if subject.random else ends_of(tokenizer, config)
    return Canvas.of(ids, config.max_tokens, mask_id=tokenizer.mask_id, pad_id=tokenizer.pad_id, end_ids=ends)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One answer to one prompt.

    Attributes:
        seconds: of the whole answer.
        first: seconds until the answer's leftmost token is final.
        nfe: the number of forwards.
        positions: positions forwarded in all.
        forwards: for each step, its number of forwards and the mean positions of one.
        answer: its useful tokens; none of random weights.
    """

    seconds: float
    first: float
    nfe: int
    positions: int
    useful_tokens: int
    forwards: list[tuple[int, float]]
    peak_memory_bytes: int
    answer: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class Decoder:
    """One way to answer prompts, and its runs so far.

    Attributes:
        kind: `diffusion`, `reference` or `autoregressive`.
        rate: the tokens per forward that are assumed; None if they are measured.
        work: the weights that a forward reads.
        prompts: the number of tokens of each prompt.
        run: answers the prompt of a given number.
        warm_up: is called once for each prompt before the first run. Part of an answer is enough if all of its forwards
            are alike.
        rounds: the runs: a round answers every prompt once.
    """

    name: str
    kind: str
    rate: float | None
    work: Work
    prompts: list[int]
    run: Callable[[int], Run]
    warm_up: Callable[[int], Any]
    rounds: list[list[Run]] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> list[float]:
        """Useful tokens per second of each round."""
        return [_tokens(runs) / sum(run.seconds for run in runs) for runs in self.rounds]

    def ratios(self, other: "Decoder") -> list[float]:
        """This decoder's tokens per second over `other`'s, in each round that both have."""
        return [mine / theirs for mine, theirs in zip(self.tokens_per_second, other.tokens_per_second, strict=False)]

    def to_dict(self, baseline: "Decoder | None", ceilings: Ceilings) -> dict[str, Any]:
        """Ready for JSON; `ratio` is this speed over the baseline's."""
        runs = self.rounds[0]
        tokens, nfe, positions = _tokens(runs), sum(run.nfe for run in runs), sum(run.positions for run in runs)
        return {
            "name": self.name,
            "kind": self.kind,
            "assumed_tokens_per_forward": self.rate,
            "useful_tokens_per_second": asdict(Spread.of(self.tokens_per_second)),
            "ratio": asdict(Spread.of(self.ratios(baseline))) if baseline else None,
            "nfe": nfe,
            "positions": positions,
            "useful_tokens": tokens,
            "tokens_per_forward": tokens / nfe if nfe else 0.0,
            "positions_per_useful_token": positions / tokens if tokens else None,
            "generations": [self._generation(number, ceilings) for number in range(len(runs))],
        }

    def _generation(self, number: int, ceilings: Ceilings) -> dict[str, Any]:
        runs = [runs[number] for runs in self.rounds]
        one, taken = runs[0], Timing.of([run.seconds for run in runs])
        ideal = sum(count * ideal_seconds(ceilings, self.work, each) for count, each in one.forwards)
        return {
            "prompt_tokens": self.prompts[number],
            "useful_tokens": one.useful_tokens,
            "nfe": one.nfe,
            "positions": one.positions,
            "time": asdict(taken),
            "first_settled": asdict(Timing.of([run.first for run in runs])),
            "peak_memory_bytes": max(run.peak_memory_bytes for run in runs),
            "roofline_share": ideal / taken.seconds,
        }


class SideBySide:
    """Every decoder answers every prompt, in turns."""

    name = "answers side by side"

    def __init__(self, decoders: Sequence[Decoder]):
        self.decoders = decoders

    def warm_up(self) -> None:
        for decoder in self.decoders:
            for number in range(len(decoder.prompts)):
                decoder.warm_up(number)

    def trial(self, delay: float) -> None:
        for decoder in self.decoders:
            if sum(run.seconds for runs in decoder.rounds for run in runs) < TIME_BUDGET:
                time.sleep(delay)
                decoder.rounds.append([decoder.run(number) for number in range(len(decoder.prompts))])

    @property
    def baseline(self) -> Decoder | None:
        """The autoregressive decoder, which the others are compared with."""
        return next((decoder for decoder in self.decoders if decoder.kind == AUTOREGRESSIVE), None)


def denoising(
    subject: Subject, prompts: list[list[int]], config: GenerationConfig, name: str, kind: str, rate: float | None = None
) -> Decoder:
    """A decoder that denoises with `config`.

    Args:
        prompts: ids of each prompt.
        rate: the tokens per forward to assume; None measures them.
    """

    def run(number: int) -> Run:
        return denoised(subject, prompts[number], config, rate)

    def warm_up(number: int) -> None:
        few = 2 if kind == "reference" else None
        denoised(subject, prompts[number], config, rate, steps=few)

    lengths = [len(ids) for ids in prompts]
    return Decoder(name=name, kind=kind, rate=rate, work=subject.forwarded, prompts=lengths, run=run, warm_up=warm_up)


def reference_of(config: GenerationConfig) -> GenerationConfig:
    """The configuration with the reference decoder: one token a step on the whole canvas, or in blocks."""
    window = config.window if config.window.startswith("block-causal") else "whole"
    plain = replace(config, threshold=None, steps=None, alg_temp=0.0, eps=EPS, rule="schedule", window=window)
    return replace(plain, reference=True)


def denoised(subject: Subject, ids: list[int], config: GenerationConfig, rate: float | None, steps: int | None = None) -> Run:
    """One answer as `generate` makes it, or only its first `steps` steps that forward."""
    tokenizer, mask_id = subject.tokenizer, subject.tokenizer.mask_id
    mx.reset_peak_memory()
    start, first, nfe, positions = time.perf_counter(), 0.0, 0, 0
    forwards, last = list[tuple[int, float]](), Step.empty(np.array(ids, dtype=np.int32))
    for last in _steps(subject, ids, config, rate):
        if not first and last.tokens[len(ids)] != mask_id:
            first = time.perf_counter() - start
        if fresh := last.nfe - nfe:
            forwards.append((fresh, (last.positions - positions) / fresh))
        nfe, positions = last.nfe, last.positions
        if steps is not None and len(forwards) >= steps:
            break
    seconds = time.perf_counter() - start
    useful = 0 if subject.random else Answer.of(tokenizer, last, len(ids)).useful_tokens
    return Run(
        seconds=seconds,
        first=first or seconds,
        nfe=nfe,
        positions=positions,
        useful_tokens=config.max_tokens if subject.random else useful,
        forwards=forwards,
        peak_memory_bytes=mx.get_peak_memory(),
        answer=last.tokens[len(ids) :][:useful].tolist(),
    )


def _steps(subject: Subject, ids: list[int], config: GenerationConfig, rate: float | None) -> Iterator[Step]:
    model, tokenizer = subject.model, subject.tokenizer
    if not subject.random:
        yield from stream_generate(model, tokenizer, ids, config)
        return
    forbidden, canvas = forbidden_ids(tokenizer, model.config.vocab_size), canvas_of(subject, ids, config)
    with synchronized():
        if rate is None:
            steps = decode(model, [canvas], config, forbidden)
        else:
            window = window_for(config)
            if window.guesses:  # a guess of random weights that came true would add to what is assumed
                window = window_for(replace(config, window="sliding:width=16,suffix=8"))
            steps = denoise(model, [canvas], AtRate(rate), window, config, forbidden=forbidden)
        for rows in steps:
            yield rows[0]


def _tokens(runs: list[Run]) -> int:
    return sum(run.useful_tokens for run in runs)


def break_even_rate(decoders: Sequence[Decoder], baseline: Decoder) -> float | None:
    """Tokens per forward at which denoising is as fast as the baseline, interpolated in logarithms.

    Returns:
        None if the rates of `decoders` do not bracket it.
    """
    points = sorted((one.rate, median(one.ratios(baseline))) for one in decoders if one.rate)
    for (low, before), (high, after) in pairwise(points):
        if before <= 1 <= after:
            share = np.log(1 / before) / np.log(after / before) if after > before else 0.0
            return float(low * (high / low) ** share)
    return None
