"""Choose how to decode on this machine with this model: the rows of a forward, and the threshold of its commits.

A few prompts are answered from left to right, one token a step, and then with every setting of the window `tree`. A setting
must keep the texts of one token a step as often as the preset's rows do at their best. Of those that do, the fastest is
chosen. Each forward is priced at the time that a forward of as many rows took on this machine. The preset's own setting stays
unless another one saves more than `GAIN`.

The prompts are also answered in the order of confidence, one token a step, to tell whether the order matters to this model.
Not covered: which of two different texts is right (measure that with tasks: `eval --compare-orders`), and that `lm_head` runs
on fewer rows in the first forward.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from mlx_diffucoder.checkpoint import weights_digest
from mlx_diffucoder.config import PRESETS, GenerationConfig
from mlx_diffucoder.data import HELD_OUT, read_samples
from mlx_diffucoder.decoding.likelihood import mean_log_probability
from mlx_diffucoder.device import synchronized
from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.evaluation.orders import CONFIDENCE, left_to_right
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import prompt_ids

from .chip import read_card
from .decoders import Run, denoised
from .profiles import Profile, machine_of
from .speed import ForwardCurve
from .subjects import Subject
from .timing import Show, Timing, take_turns

PRESET = "balanced"
"""The preset to tune; its window has rows to choose."""
OWN_ROWS = 32
"""The rows of the preset's window."""
OWN_RULE, LOOSER = PRESETS[PRESET]["rule"], "threshold:tau=0.9"
"""The preset's rule, and one that is measured but never chosen, since a few easy prompts do not show what it loses: of 200 hard
texts of the bundled model it kept 179 and the preset's rule 191 (docs/results/decoding.md, "The tree")."""
SETTINGS = {8: ("leftmost",), OWN_ROWS: ("leftmost", OWN_RULE, LOOSER), 64: ("leftmost", OWN_RULE), 128: ("leftmost", OWN_RULE)}
"""The rules to try with each number of rows. With 8, only what was verified is committed: of the same 200 answers, the preset's
rule passed 90.5 % with 8 rows and 91.5 % with 32."""
PROMPTS = 12
"""How many prompts to answer by default."""
POSITIONS = (1, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256, 384, 512)
"""Where forwards are timed; the first forward includes the prompt."""
GAIN = 0.05
"""The share of the time that another setting must save."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A setting, what decoding the prompts with it took, and the seconds that this comes to by the timed forwards.

    Attributes:
        same: the number of prompts with the text of one token a step from left to right.
    """

    rows: int
    rule: str
    window: str
    nfe: int
    positions: int
    useful_tokens: int
    seconds: float
    same: int

    @property
    def per_token(self) -> float:
        """Seconds per useful token; infinite if there is none."""
        return self.seconds / self.useful_tokens if self.useful_tokens else float("inf")


@dataclass(frozen=True, kw_only=True)
class Orders:
    """How the answers from left to right and those by confidence differ, both one token a step.

    Attributes:
        prompts: how many were answered.
        same: those with the same text in both orders.
        left_to_right, confidence: the mean log-probability of the answers' tokens in nats, as in `likelihood`; the mean over
            prompts.
        likelier: of the texts that differ, how often the one from left to right is more probable.
    """

    prompts: int
    same: int
    left_to_right: float
    confidence: float
    likelier: int


@dataclass(frozen=True)
class Tuning:
    """What was measured of each setting, the chosen one, how the orders differ, and the profile to store."""

    points: list[Point]
    chosen: Point
    orders: Orders
    profile: Profile


def default_prompts() -> list[str]:
    """Prompts for small functions, the first ones of `data.HELD_OUT`."""
    return [str(sample.messages[0]["content"]) for sample in read_samples(HELD_OUT, PROMPTS)]


def tune(subject: Subject, prompts: list[str], config: GenerationConfig, trials: int, delay: float, show: Show) -> Tuning:
    """Choose a setting for the preset `PRESET`.

    Args:
        config: the longest answer, and how tokens are chosen; at temperature 0.
        trials: how often each forward is timed.
        delay: seconds of rest before each trial.

    Raises:
        PromptError: a prompt does not fit into the model's context.
        BenchError: the model cannot decode on the window `tree`, as it is block-causal, changes its canvas or has no shift.
    """
    family = subject.model.family
    if subject.model.config.block_length:
        raise BenchError(f"{family.name} models decode in blocks of fixed length; there is nothing to tune")
    if subject.tokenizer.sizes:
        raise BenchError(f"{family.name} models forward the whole canvas, whose length they change; there is nothing to tune")
    if subject.model.shift != 1:
        raise BenchError(f"{family.name} models cannot decode on the window tree, whose rows are tuned; there is nothing to tune")
    config = replace(config, seed=0)
    ids = [prompt_ids(subject.model, subject.tokenizer, prompt, config) for prompt in prompts]
    longest = subject.model.config.max_position_embeddings
    curve = ForwardCurve(subject, [width for width in POSITIONS if width <= longest])
    take_turns([curve], trials, delay, show)
    with show("decoding one token a step"):
        plain = [denoised(subject, one, left_to_right(config, shift=0), None).answer for one in ids]
        by_confidence = [denoised(subject, one, replace(config, **CONFIDENCE), None).answer for one in ids]
    orders = compared(subject, ids, plain, by_confidence)
    with show("decoding with each setting"):
        found = list(points(subject, ids, plain, config, curve.timings))
    chosen = choose(found)
    profile = Profile(
        machine=machine_of(read_card()),
        model=subject.name,
        weights=weights_digest(subject.model),
        decoding={PRESET: {"rule": chosen.rule, "window": chosen.window}},
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        measured={
            "forwards": {str(width): asdict(timing) for width, timing in curve.timings.items()},
            "points": [asdict(point) for point in found],
            "orders": asdict(orders),
            "prompts": prompts,
            "config": config.to_dict(),
        },
    )
    return Tuning(found, chosen, orders, profile)


def compared(subject: Subject, prompts: list[list[int]], plain: list[list[int]], by_confidence: list[list[int]]) -> Orders:
    """Compare the answers of the two orders.

    Args:
        prompts: ids of each prompt; `plain` and `by_confidence` are the ids of its answers.
    """
    model, mask_id = subject.model, subject.tokenizer.mask_id
    forbidden = forbidden_ids(subject.tokenizer, model.config.vocab_size)
    with synchronized():
        scores = np.array(
            [
                [mean_log_probability(model, [*ids, *answer], len(ids), mask_id, forbidden)[0] for answer in answers]
                for ids, *answers in zip(prompts, plain, by_confidence, strict=True)
            ]
        )
    differ = [one != other for one, other in zip(plain, by_confidence, strict=True)]
    left, right = scores.mean(axis=0).tolist()
    likelier = int((scores[differ, 0] > scores[differ, 1]).sum())
    return Orders(prompts=len(prompts), same=differ.count(False), left_to_right=left, confidence=right, likelier=likelier)


def points(
    subject: Subject, prompts: list[list[int]], plain: list[list[int]], config: GenerationConfig, curve: Mapping[int, Timing]
) -> Iterator[Point]:
    """Yield a point for each setting, the preset's own among them.

    Args:
        prompts: ids of each prompt.
        plain: the ids of their answers, written from left to right, one token a step.
        config: the longest answer, and how tokens are chosen.
        curve: the time of a forward by its positions.
    """
    for rows, rule in ((rows, rule) for rows, rules in SETTINGS.items() for rule in rules):
        window = f"tree:rows={rows}"
        runs = [denoised(subject, ids, replace(config, rule=rule, window=window), None) for ids in prompts]
        yield Point(
            rows=rows,
            rule=rule,
            window=window,
            nfe=sum(run.nfe for run in runs),
            positions=sum(run.positions for run in runs),
            useful_tokens=sum(run.useful_tokens for run in runs),
            seconds=seconds_of(runs, curve),
            same=sum(run.answer == answer for run, answer in zip(runs, plain, strict=True)),
        )


def seconds_of(runs: Sequence[Run], curve: Mapping[int, Timing]) -> float:
    """Seconds of all forwards, each priced by the curve's least times, which other work on the machine does not change."""
    at = sorted(curve)
    least = np.maximum.accumulate([curve[width].low for width in at])  # more positions never take less
    slope = (least[-1] - least[-2]) / (at[-1] - at[-2])
    total = 0.0
    for count, each in (forward for run in runs for forward in run.forwards):
        total += count * float(np.interp(each, at, least) + slope * max(0.0, each - at[-1]))
    return total


def choose(found: Sequence[Point]) -> Point:
    """The fastest of the settings that keep the text of one token a step, or the preset's own unless that saves more than `GAIN`.

    A setting keeps it if it does for as many prompts as the best rule with the preset's rows. `LOOSER` is never chosen.
    """
    most = max(point.same for point in found if point.rows == OWN_ROWS)
    kept = [point for point in found if point.same >= most and point.rule != LOOSER]
    best = min(kept, key=lambda point: point.per_token)
    own = own_point(found)
    return own if own in kept and best.per_token >= (1 - GAIN) * own.per_token else best


def own_point(found: Sequence[Point]) -> Point:
    """The preset's own setting."""
    own: Mapping[str, Any] = PRESETS[PRESET]
    return next(point for point in found if (point.rule, point.window) == (own["rule"], own["window"]))
