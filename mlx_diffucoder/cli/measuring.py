"""The measurement of `diffucode bench`, printed as it goes."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import GenerationConfig
from ..errors import BenchError
from .progress import waiting

if TYPE_CHECKING:
    from ..bench.ceilings import Ceilings
    from ..bench.networks import Measured

VERSION = 1
"""Of the JSON: it changes when a key goes or means something else."""
PROMPTS = (
    "Write a function f(nums) that returns the sum of the squares of the even numbers in nums.",
    "Implement process(k): return whether k is a prime number.",
    "Write a function solve that returns the sum of the digits of n. The argument is n.",
)


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how; `open` makes the network."""

    prompts: list[str] | None
    config: GenerationConfig
    widest: int
    trials: int
    delay: float
    out: Path | None
    open: "Callable[[], Measured]"


def measure_here(plan: Plan, *, measure: bool, as_json: bool) -> int:
    """Measure, printing a table as it grows, or one JSON object at the end."""
    from ..bench.chip import read_card
    from .bench import ceilings_here

    if plan.out is not None:
        _check_writable(plan.out)
    measured = plan.open()
    config = replace(plan.config, seed=plan.config.seed or 0)  # the same work in every trial
    card = read_card()
    for warning in card.warnings:
        print(f"note: {warning}", file=sys.stderr)
    ceilings = ceilings_here(card, measure=measure)
    say: Callable[[str], None] = (lambda line: None) if as_json else (lambda line: print(line, flush=True))
    for line in [*card.lines(), *ceilings.lines()]:
        say(line)
    report = {
        "version": VERSION,
        "card": card.to_dict(),
        "ceilings": ceilings.to_dict(),
        "model": measured.to_dict(),
        "config": config.to_dict(),
        "trials": plan.trials,
        "delay_seconds": plan.delay,
        **_measurements(plan, measured, config, ceilings, say),
    }
    text = json.dumps(report)
    if plan.out is not None:
        _write(plan.out, text)
    if as_json:
        print(text)
    return 0


def _measurements(
    plan: Plan, measured: "Measured", config: GenerationConfig, ceilings: "Ceilings", say: Callable[[str], None]
) -> dict[str, Any]:
    from ..generation import prompt_ids

    prompts = plan.prompts or list(PROMPTS)
    encoded = [prompt_ids(measured.model, measured.tokenizer, prompt, config) for prompt in prompts]
    model = measured.to_dict()
    say(f"{'model':10} {model['name']}: {model['bytes'] / 1e9:.3g} GB, {model['bits_per_weight']:.2f} bits a weight")
    say(f"{'':10} trials: {plan.trials}, the median (least to most); share: of the roofline, what the ceilings would allow")
    return {
        "forwards": _forwards(plan, measured, ceilings, say),
        "step": _split(plan, measured, encoded, config, say),
        "generations": _generations(plan, measured, encoded, config, ceilings, say),
    }


def _forwards(plan: Plan, measured: "Measured", ceilings: "Ceilings", say: Callable[[str], None]) -> list[dict[str, Any]]:
    from ..bench.roofline import POSITIONS
    from ..bench.speed import forward_curve, ideal_seconds

    most = min(plan.widest, measured.model.config.max_position_embeddings)
    curve = forward_curve(measured, [width for width in POSITIONS if width <= most], plan.trials, plan.delay)
    rows, work = list[dict[str, Any]](), measured.work
    say("\nforward: positions, time, share")
    while True:
        with waiting("timing forwards"):
            point = next(curve, None)
        if point is None:
            return rows
        width, took = point
        share = ideal_seconds(ceilings, work, width) / took.seconds
        rows.append({"positions": width, "time": took.to_dict(), "roofline_share": share})
        say(f"{width:9}  {took}  {100 * share:.0f} %")


def _split(
    plan: Plan, measured: "Measured", prompts: list[list[int]], config: GenerationConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    from ..bench.speed import split_of

    with waiting("timing the parts of a step"):
        split = split_of(measured, prompts, config, plan.trials, plan.delay)
    say(f"\nstep: {split.step}, the mean of {split.steps}")
    for part, seconds in split.parts.items():
        say(f"{part:>9}  {1e3 * seconds:.2f} ms  {100 * seconds / sum(split.parts.values()):.1f} %")
    say(f"{'':9}  the parts, each waited for, make {100 * split.sum_over_step:.0f} % of a step")
    say(f"first forward, with a prompt of {split.prompt} tokens: {split.encoding}")
    return split.to_dict()


def _generations(
    plan: Plan,
    measured: "Measured",
    prompts: list[list[int]],
    config: GenerationConfig,
    ceilings: "Ceilings",
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    from ..bench.speed import generation_of

    rows = []
    for number, ids in enumerate(prompts):
        with waiting(f"generating {number + 1} of {len(prompts)}"):
            one = generation_of(measured, ids, config, ceilings, plan.trials, plan.delay)
        rows.append(one.to_dict())
        stats = one.stats
        say(f"\ngeneration {number + 1}: {one.time}")
        say(f"{stats.nfe:9} forwards (NFE) of {stats.positions} positions, prompt of {one.prompt} tokens")
        say(f"{stats.useful_tokens:9} useful tokens, {stats.tokens_per_second:.1f} useful tokens/s")
        say(f"{stats.tokens_per_forward:9.2f} useful tokens per forward")
        say(f"{stats.positions_per_useful_token:9.1f} positions per useful token")
        say(f"{1e3 * one.first.seconds:9.1f} ms to the first settled token")
        say(f"{stats.peak_memory_bytes / 1e6:9.0f} MB of memory at most")
        say(f"{100 * one.ideal / one.time.seconds:9.0f} % of the roofline")
    if measured.random:
        say("\nrandom weights: the times are good; which and how many tokens were useful means nothing")
    return rows


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise BenchError(f"--out {path}: {'is a folder' if path.is_dir() else 'its folder does not exist'}; name a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BenchError(f"--out {path}: may not be written (permission denied); name another file")


def _write(path: Path, text: str) -> None:
    """The file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise BenchError(f"--out {path}: cannot be written ({error.strerror})") from None
    finally:
        beside.unlink(missing_ok=True)
