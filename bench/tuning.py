"""The width of the sliding window, from the chip: what a forward costs here, and how many a width takes.

For each width the prompts are decoded once and their forwards counted, no answer judged; then every forward is
given the time that one of as many positions took here. The preset's own width stays unless another one
saves more than `GAIN`. Not covered: what a width does to the answers, which must be measured with tasks, and
that `lm_head` runs on the window's rows only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mlx_diffucoder.choices import WINDOWS, parse_choice
from mlx_diffucoder.config import PRESETS, GenerationConfig

from .decoders import Run, denoised
from .subjects import Measured
from .timing import Timing

TUNED = tuple(name for name, fields in PRESETS.items() if fields["window"].startswith("sliding"))
"""The presets that have a width to choose."""
WIDTHS = (16, 20, 24, 28, 32)
"""Others cost answers: of 100 tasks `pocket` passed 97 with a width of 8, 98 with 12, 95 with 48 to 96, all with 16, 24, 32."""
POSITIONS = (1, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256, 384, 512)
"""What the curve is measured at: a window's positions come in multiples of 8, the first one's with the prompt."""
GAIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Point:
    """A window, what it took to decode the prompts, and the seconds that come to by the curve."""

    width: int
    window: str
    nfe: int
    positions: int
    useful_tokens: int
    seconds: float

    @property
    def per_token(self) -> float:
        """Seconds per useful token."""
        return self.seconds / self.useful_tokens if self.useful_tokens else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def points(
    measured: Measured, prompts: list[list[int]], config: GenerationConfig, preset: str, curve: Mapping[int, Timing]
) -> Iterator[Point]:
    """A point for each width, the preset's own among them.

    Args:
        config: the tokens to decode, and how they are drawn.
    """
    _, own = parse_choice(PRESETS[preset]["window"], WINDOWS, "window")
    for width in sorted({*WIDTHS, int(own["width"])}):
        window = f"sliding:width={width},suffix={own['suffix']:g}"
        decoding = replace(config, rule=PRESETS[preset]["rule"], window=window)
        runs = [denoised(measured, ids, decoding, None) for ids in prompts]
        yield Point(
            width=width,
            window=window,
            nfe=sum(run.nfe for run in runs),
            positions=sum(run.positions for run in runs),
            useful_tokens=sum(run.useful_tokens for run in runs),
            seconds=seconds_of(runs, curve),
        )


def seconds_of(runs: Sequence[Run], curve: Mapping[int, Timing]) -> float:
    """Every forward by the curve's least times, which other work on the machine does not change."""
    at = sorted(curve)
    least = np.maximum.accumulate([curve[width].low for width in at])  # more positions never take less
    slope = (least[-1] - least[-2]) / (at[-1] - at[-2])
    total = 0.0
    for count, each in (forward for run in runs for forward in run.forwards):
        total += count * float(np.interp(each, at, least) + slope * max(0.0, each - at[-1]))
    return total


def choose(preset: str, found: Sequence[Point]) -> Point:
    """The fastest width, or the preset's own where none saves more than `GAIN`."""
    own_width = parse_choice(PRESETS[preset]["window"], WINDOWS, "window")[1]["width"]
    own = next(point for point in found if point.width == own_width)
    best = min(found, key=lambda point: point.per_token)
    return best if best.per_token < (1 - GAIN) * own.per_token else own
