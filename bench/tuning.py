"""Choose the rows of a forward for this machine and model.

Each budget decodes the prompts once. Its forwards are counted, the answers are not judged; each forward is then priced
at the time that a forward of as many rows took on this machine. The preset's own budget stays unless another one
saves more than `GAIN`. Not covered: what a budget does to the quality of the answers (measure that with tasks), and
that `lm_head` runs on fewer rows in the first forward.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np

from mlx_diffucoder.checkpoint import weights_digest
from mlx_diffucoder.choices import WINDOWS, parse_choice
from mlx_diffucoder.config import PRESETS, GenerationConfig
from mlx_diffucoder.generation import prompt_ids

from .chip import read_card
from .decoders import Run, denoised
from .profiles import Profile, machine_of
from .speed import ForwardCurve
from .subjects import Subject
from .timing import Show, Timing, take_turns

TUNED = tuple(name for name, fields in PRESETS.items() if fields["window"].startswith("tree"))
"""The presets whose window has rows to choose."""
ROWS = (8, 16, 32, 64, 128)
"""The budgets to try: parts of a tile, a tile, and tiles."""
POSITIONS = (1, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256, 384, 512)
"""Where forwards are timed; the first forward includes the prompt."""
GAIN = 0.05
"""The share of the time that another budget must save."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A window, what decoding the prompts with it took, and the seconds that this comes to by the timed forwards."""

    rows: int
    window: str
    nfe: int
    positions: int
    useful_tokens: int
    seconds: float

    @property
    def per_token(self) -> float:
        """Seconds per useful token; infinite if there is none."""
        return self.seconds / self.useful_tokens if self.useful_tokens else float("inf")


@dataclass(frozen=True)
class Tuning:
    """The points of each preset, the chosen one among them, and the profile to store."""

    points: dict[str, list[Point]]
    chosen: dict[str, Point]
    profile: Profile


def tune(subject: Subject, prompts: list[str], config: GenerationConfig, trials: int, delay: float, show: Show) -> Tuning:
    """Choose a window for each preset that has rows to choose.

    Args:
        config: the longest answer, and how tokens are drawn.
        trials: how often each forward is timed.
        delay: seconds of rest before each trial.

    Raises:
        PromptError: a prompt does not fit into the model's context.
    """
    config = replace(config, seed=config.seed or 0)
    ids = [prompt_ids(subject.model, subject.tokenizer, prompt, config) for prompt in prompts]
    longest = subject.model.config.max_position_embeddings
    curve = ForwardCurve(subject, [width for width in POSITIONS if width <= longest])
    take_turns([curve], trials, delay, show)
    found: dict[str, list[Point]] = {}
    for preset in TUNED:
        with show(f"decoding with each budget of rows: {preset}"):
            found[preset] = list(points(subject, ids, config, preset, curve.timings))
    chosen = {preset: choose(preset, candidates) for preset, candidates in found.items()}
    profile = Profile(
        machine=machine_of(read_card()),
        model=subject.name,
        weights=weights_digest(subject.model),
        windows={preset: point.window for preset, point in chosen.items()},
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        measured={
            "forwards": {str(width): asdict(timing) for width, timing in curve.timings.items()},
            "points": {preset: [asdict(point) for point in candidates] for preset, candidates in found.items()},
            "prompts": prompts,
            "config": config.to_dict(),
        },
    )
    return Tuning(found, chosen, profile)


def points(
    subject: Subject, prompts: list[list[int]], config: GenerationConfig, preset: str, curve: Mapping[int, Timing]
) -> Iterator[Point]:
    """Yield a point for each budget of rows, the preset's own among them.

    Args:
        prompts: ids of each prompt.
        config: the longest answer, and how tokens are drawn.
        curve: the time of a forward by its positions.
    """
    _, own = parse_choice(PRESETS[preset]["window"], WINDOWS, "window")
    for rows in sorted({*ROWS, int(own["rows"])}):
        window = f"tree:rows={rows}"
        decoding = replace(config, rule=PRESETS[preset]["rule"], window=window)
        runs = [denoised(subject, ids, decoding, None) for ids in prompts]
        yield Point(
            rows=rows,
            window=window,
            nfe=sum(run.nfe for run in runs),
            positions=sum(run.positions for run in runs),
            useful_tokens=sum(run.useful_tokens for run in runs),
            seconds=seconds_of(runs, curve),
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


def choose(preset: str, found: Sequence[Point]) -> Point:
    """The fastest point, or the preset's own unless that saves more than `GAIN`."""
    own_rows = parse_choice(PRESETS[preset]["window"], WINDOWS, "window")[1]["rows"]
    own = next(point for point in found if point.rows == own_rows)
    best = min(found, key=lambda point: point.per_token)
    return best if best.per_token < (1 - GAIN) * own.per_token else own
