"""The tuned window: `diffucode bench --tune` chooses and stores it, other verbs take it."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..config import PRESETS, GenerationConfig
from ..errors import BenchError
from ..formatting import format_seconds
from .progress import waiting

if TYPE_CHECKING:
    from ..bench.subjects import Measured
    from ..bench.tuning import Point
    from ..models.transformer import DiffusionModel


def tuned(config: GenerationConfig, network: "DiffusionModel", *, wanted: bool, verbose: bool) -> GenerationConfig:
    """The configuration with the window that was tuned for this machine and network, where there is one for its preset.

    A profile that cannot be used is said on stderr and left.

    Args:
        wanted: False where the user named a window, or wants none that was tuned.
        verbose: say on stderr which window it is.
    """
    from ..bench import profiles

    names = (name for name, own in PRESETS.items() if (config.rule, config.window) == (own["rule"], own["window"]))
    preset = next(names, None)
    if not wanted or preset is None or not profiles.stored():
        return config
    from ..bench.chip import read_card
    from ..checkpoint import weights_digest

    try:
        profile = profiles.find(weights_digest(network), read_card)
    except BenchError as error:
        print(f"note: {error}", file=sys.stderr)
        return config
    if profile is None or preset not in profile.windows:
        return config
    if verbose:
        print(f"window: {profile.windows[preset]}, tuned for this machine (--no-tuned: the preset's)", file=sys.stderr)
    return replace(config, window=profile.windows[preset])


def tune_here(
    measured: "Measured", prompts: list[str], config: GenerationConfig, trials: int, delay: float, *, as_json: bool
) -> int:
    """Choose a window for each preset that has one, print what it was chosen by, and store it."""
    from ..bench.chip import read_card
    from ..bench.profiles import Profile, check_writable, machine_of, save
    from ..bench.speed import ForwardCurve
    from ..bench.timing import take_turns
    from ..bench.tuning import POSITIONS, TUNED, choose, points
    from ..checkpoint import weights_digest
    from ..generation import prompt_ids

    check_writable()
    config = replace(config, seed=config.seed or 0)
    ids = [prompt_ids(measured.model, measured.tokenizer, prompt, config) for prompt in prompts]
    most = measured.model.config.max_position_embeddings
    curve = ForwardCurve(measured, [width for width in POSITIONS if width <= most])
    take_turns([curve], trials, delay, waiting)
    found: dict[str, list[Point]] = {}
    for preset in TUNED:
        with waiting(f"decoding with each width: {preset}"):
            found[preset] = list(points(measured, ids, config, preset, curve.timings))
    chosen = {preset: choose(preset, own) for preset, own in found.items()}
    profile = Profile(
        machine=machine_of(read_card()),
        model=measured.name,
        weights=weights_digest(measured.model),
        windows={preset: point.window for preset, point in chosen.items()},
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        measured={
            "forwards": {str(width): took.to_dict() for width, took in curve.timings.items()},
            "points": {preset: [point.to_dict() for point in own] for preset, own in found.items()},
            "prompts": prompts,
            "config": config.to_dict(),
        },
    )
    path = save(profile)
    if as_json:
        print(json.dumps({"file": str(path), **vars(profile)}))
        return 0
    for preset, own in found.items():
        _print(preset, own, chosen[preset])
    print(f"stored in {path}: generate, chat and eval take it for {measured.name} here, unless --window or --no-tuned")
    return 0


def _print(preset: str, found: "list[Point]", chosen: "Point") -> None:
    own = next(point for point in found if PRESETS[preset]["window"] == point.window)
    print(f"{preset}: {len(found)} widths, forwards counted and timed; no answer was judged")
    print(f"{'width':>9}  {'forwards':>8}  {'positions':>9}  {'useful tokens':>13}  {'per useful token':>19}")
    for point in found:
        mark = " chosen" if point is chosen else " preset's" if point is own else ""
        print(f"{point.width:9}  {_numbers(point)}{mark}")
    share = chosen.per_token / own.per_token
    print(f"{'':9}  {chosen.window}: {100 * share:.0f} % of the preset's time, reckoned\n")


def _numbers(point: Any) -> str:
    return f"{point.nfe:8}  {point.positions:9}  {point.useful_tokens:13}  {format_seconds(point.per_token):>19}"
