"""The measurement of `diffucode bench run`: forwards, the parts of a step, and answers next to the alternatives."""

import math
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlx_diffucoder import __version__
from mlx_diffucoder.config import PRESETS, GenerationConfig
from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.generation import prompt_ids

from .baselines import autoregressive, coder, coder_for, same_weights
from .ceilings import TABLES, Ceilings, measure_ceilings
from .chip import Card
from .decoders import RATES, Decoder, SideBySide, denoised, denoising, reference_of
from .report import VERSION
from .roofline import rows_of
from .speed import ForwardCurve, Splitting, forward_rows
from .subjects import Subject
from .timing import Show, take_turns

PROMPTS = (
    "Write a function f(nums) that returns the sum of the squares of the even numbers in nums.",
    "Implement process(k): return whether k is a prime number.",
    "Write a function solve that returns the sum of the digits of n. The argument is n.",
)


@dataclass(frozen=True)
class Plan:
    """What to measure, and how.

    Attributes:
        prompts: what to answer; None takes the built-in ones.
        widest: the most rows of a forward.
        trials: how often each thing is measured.
        delay: seconds of rest before each trial.
        rate: tokens per forward to assume of random weights; None tries several.
        baseline: the model that mlx-lm runs, a folder or a Hub id in the cache; None chooses.
        alone: leave out mlx-lm and the reference decoder.
    """

    prompts: list[str] | None
    config: GenerationConfig
    widest: int
    trials: int
    delay: float
    rate: float | None
    baseline: str | None
    alone: bool


@dataclass(frozen=True, kw_only=True)
class Results:
    """What was measured: the report as it is written to a file, and the parts that tables are made of."""

    report: dict[str, Any]
    ceilings: Ceilings
    answers: SideBySide


def measure(plan: Plan, subject: Subject, card: Card, ceilings: Ceilings, show: Show) -> Results:
    """Measure a model on this machine. Ceilings that were measured here are measured again at the end, and the better count.

    Args:
        card: this machine's.

    Raises:
        BenchError: the baseline is not on this machine or does not fit into memory.
        PromptError: a prompt does not fit into the model's context.
    """
    config = replace(plan.config, seed=plan.config.seed or 0).for_model(subject.model)  # the same work in every trial
    # With random weights only a prompt's length matters: one is enough.
    prompts = plan.prompts or list(PROMPTS[:1] if subject.random else PROMPTS)
    encoded = [prompt_ids(subject.model, subject.tokenizer, prompt, config) for prompt in prompts]
    widest = min(plan.widest, subject.model.config.max_position_embeddings)
    curve = ForwardCurve(subject, [rows for rows in rows_of(subject.model.config.block_length) if rows <= widest])
    splitting = Splitting(subject, encoded, config, max(rates_of(plan, subject)) if subject.random else None)
    answers = SideBySide(_decoders(plan, subject, prompts, encoded, config, show))
    take_turns([curve, splitting, answers], plan.trials, plan.delay, show)
    if ceilings.source != TABLES:
        with show("measuring bandwidth and matmul again"):
            again = measure_ceilings(card.chip)
        fastest = max(ceilings.bandwidth, again.bandwidth)
        ceilings = replace(ceilings, bandwidth=fastest, flops=max(ceilings.flops, again.flops))
    report = {
        "version": VERSION,
        "program": f"mlx_diffucoder {__version__}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "card": asdict(card),
        "ceilings": asdict(ceilings),
        "model": subject.to_dict(),
        "shard": subject.shared.to_dict() if subject.shared else None,
        "config": config.to_dict(),
        "prompts": prompts,
        "trials": plan.trials,
        "delay_seconds": plan.delay,
        "forwards": forward_rows(curve, subject, ceilings),
        "step": splitting.to_dict(),
        "decoders": [decoder.to_dict(answers.baseline, ceilings) for decoder in answers.decoders],
    }
    return Results(report=report, ceilings=ceilings, answers=answers)


def busy() -> str | None:
    """A warning if other work takes the processors, as far as the system's load tells; otherwise None."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < cores / 4:
        return None
    return f"other work runs on this machine (load {load:.1f} on {cores} cores): times are too long, and their spread too wide"


def rates_of(plan: Plan, subject: Subject) -> list[float]:
    """The tokens per forward to assume of random weights. Raises `BenchError` for more than a forward can commit."""
    most = subject.model.config.block_length or math.inf
    if plan.rate and plan.rate > most:
        raise BenchError(
            f"--tokens-per-forward must be at most {most}, the positions in a block, not {plan.rate:g}",
            field="--tokens-per-forward",
        )
    return [plan.rate] if plan.rate else [rate for rate in RATES if rate <= most]


def _decoders(
    plan: Plan, subject: Subject, prompts: list[str], encoded: list[list[int]], config: GenerationConfig, show: Show
) -> list[Decoder]:
    """mlx-lm, which others are compared with, then the reference decoder, then the configuration to measure."""
    rates = rates_of(plan, subject)
    ours = [
        denoising(subject, encoded, config, f"diffucode{_suffix(config, rate, subject)}", "diffusion", rate)
        for rate in (rates if subject.random else [None])
    ]
    if plan.alone:
        return ours
    reference = denoising(subject, encoded, reference_of(config), "reference", "reference")
    name = plan.baseline or coder_for(subject)
    if not name and subject.shared and subject.shared.shard == "tensor":
        return [reference, *ours]  # mlx-lm cannot run on parts of the weights
    with show("preparing mlx-lm"):
        baseline = coder(name, subject) if name else same_weights(subject)
        its_prompts = [baseline.prompt(text, ids, config) for text, ids in zip(prompts, encoded, strict=True)]
    tokens = [config.max_tokens] * len(prompts)
    if not baseline.ends and not subject.random:
        with show("counting useful tokens"):
            tokens = [max(1, denoised(subject, ids, config, None).useful_tokens) for ids in encoded]
    return [autoregressive(baseline, its_prompts, tokens), reference, *ours]


def _suffix(config: GenerationConfig, rate: float | None, subject: Subject) -> str:
    if rate is not None:
        return f", {rate:g} assumed"
    presets = {name: GenerationConfig.preset(name, max_tokens=config.max_tokens).for_model(subject.model) for name in PRESETS}
    named = (name for name, own in presets.items() if (own.rule, own.window) == (config.rule, config.window))
    return f", {next(named, 'own flags')}"
