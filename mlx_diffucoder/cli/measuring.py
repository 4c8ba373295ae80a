"""The measurement of `diffucode bench`, printed as it goes."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..config import PRESETS, GenerationConfig
from ..errors import BenchError
from ..files import write_output
from .progress import waiting

if TYPE_CHECKING:
    from ..bench.decoders import Decoder
    from ..bench.subjects import Measured

PROMPTS = (
    "Write a function f(nums) that returns the sum of the squares of the even numbers in nums.",
    "Implement process(k): return whether k is a prime number.",
    "Write a function solve that returns the sum of the digits of n. The argument is n.",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured, and how; `open` makes the network.

    Attributes:
        rate: tokens a forward to assume of random weights; None is several.
        peer: what mlx-lm is to run, by name; None chooses.
        alone: leave mlx-lm and the reference decoder out.
    """

    prompts: list[str] | None
    config: GenerationConfig
    widest: int
    trials: int
    delay: float
    out: Path | None
    rate: float | None
    peer: str | None
    alone: bool
    open: "Callable[[], Measured]"


def measure_here(plan: Plan, *, measure: bool, as_json: bool) -> int:
    """Measure, then print tables or one JSON object."""
    from ..bench.baselines import folder_of
    from ..bench.ceilings import measure as measure_ceilings
    from ..bench.chip import read_card
    from ..bench.decoders import RATES, SideBySide
    from ..bench.report import VERSION
    from ..bench.speed import ForwardCurve, Splitting, forward_rows
    from ..bench.timing import take_turns
    from ..generation import prompt_ids
    from .bench import ceilings_here
    from .bench_tables import lines

    if plan.out is not None:
        _check_writable(plan.out)
    if plan.peer is not None:
        folder_of(plan.peer)
    measured = plan.open()
    config = replace(plan.config, seed=plan.config.seed or 0)  # the same work in every trial
    card = read_card()
    ceilings = ceilings_here(card, measure=measure)
    for warning in [*card.warnings, *_busy()]:
        print(f"note: {warning}", file=sys.stderr)
    # With random weights a prompt is no more than its length: one is enough.
    prompts = plan.prompts or list(PROMPTS[:1] if measured.random else PROMPTS)
    encoded = [prompt_ids(measured.model, measured.tokenizer, prompt, config) for prompt in prompts]
    curve = ForwardCurve(measured, _widths(plan, measured))
    splitting = Splitting(measured, encoded, config, (plan.rate or max(RATES)) if measured.random else None)
    answers = SideBySide(_decoders(plan, measured, prompts, encoded, config))
    take_turns([curve, splitting, answers], plan.trials, plan.delay, waiting)
    if ceilings.measured:
        with waiting("measuring bandwidth and matmul again"):
            ceilings = ceilings.or_better(measure_ceilings(card.chip))
    report = {
        "version": VERSION,
        "program": f"mlx_diffucoder {__version__}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "card": card.to_dict(),
        "ceilings": ceilings.to_dict(),
        "model": measured.to_dict(),
        "config": config.to_dict(),
        "prompts": prompts,
        "trials": plan.trials,
        "delay_seconds": plan.delay,
        "forwards": forward_rows(curve, measured, ceilings),
        "step": splitting.split.to_dict(),
        "decoders": [speed.to_dict(answers.baseline, ceilings) for speed in answers.speeds],
    }
    if plan.out is not None:
        write_output(plan.out, json.dumps(report) + "\n", flag="--out")
    if as_json:
        print(json.dumps(report))
    else:
        for line in [*card.lines(), *ceilings.lines(), *lines(report, splitting.split, answers)]:
            print(line)
    return 0


def _busy() -> list[str]:
    """A note where other work takes the processors, as far as the system says."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < cores / 4:
        return []
    return [f"other work runs on this machine (load {load:.1f} on {cores} cores): times are too long, and so is their spread"]


def _widths(plan: Plan, measured: "Measured") -> list[int]:
    from ..bench.roofline import POSITIONS

    most = min(plan.widest, measured.model.config.max_position_embeddings)
    return [width for width in POSITIONS if width <= most]


def _decoders(
    plan: Plan, measured: "Measured", prompts: list[str], encoded: list[list[int]], config: GenerationConfig
) -> "list[Decoder]":
    """mlx-lm first, what others are held against; then the reference, then what was asked for."""
    from ..bench.baselines import autoregressive, coder, coder_for, same_weights
    from ..bench.decoders import RATES, denoised, denoising, reference_of

    rates = [plan.rate] if plan.rate else list(RATES)
    ours = [
        denoising(measured, encoded, config, f"diffucode{_named(config, rate)}", "diffusion", rate)
        for rate in (rates if measured.random else [None])
    ]
    if plan.alone:
        return ours
    name = plan.peer or coder_for(measured)
    with waiting("preparing mlx-lm"):
        peer = coder(name, measured) if name else same_weights(measured)
        its = [peer.prompt(text, ids, config) for text, ids in zip(prompts, encoded, strict=True)]
    tokens = [config.max_tokens] * len(its)
    if not peer.ends and not measured.random:
        with waiting("counting useful tokens"):
            tokens = [max(1, denoised(measured, ids, config, None).useful_tokens) for ids in encoded]
    reference = denoising(measured, encoded, reference_of(config), "reference", "reference")
    return [autoregressive(peer, its, tokens), reference, *ours]


def _named(config: GenerationConfig, rate: float | None) -> str:
    if rate is not None:
        return f", {rate:g} assumed"
    named = (name for name, own in PRESETS.items() if all(getattr(config, key) == value for key, value in own.items()))
    return f", {next(named, 'own flags')}"


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise BenchError(f"--out {path}: {'is a folder' if path.is_dir() else 'its folder does not exist'}; name a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BenchError(f"--out {path}: may not be written (permission denied); name another file")
