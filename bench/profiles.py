"""Tuned rules and windows, stored for one machine and one model.

A profile is used only if the machine and the digest of every weight are those it was tuned with.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffucoder.checkpoint import weights_digest
from mlx_diffucoder.config import PRESETS, GenerationConfig
from mlx_diffucoder.errors import BenchError, ConfigError
from mlx_diffucoder.file_kinds import LARGEST_JSON, read_bytes
from mlx_diffucoder.files import write_atomically

from .chip import Card

VERSION = 3
FOLDER = "DIFFUCODE_PROFILES"
"""The environment variable that names the folder of profiles, instead of the user's data folder."""
AGAIN = "`diffucode bench tune` makes a new one"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Tuned rules and windows.

    Attributes:
        machine: what `machine_of` returns.
        model: the name that the model had, for people.
        weights: what `weights_digest` returns; it depends on the dtype of the weights too.
        decoding: by preset, the `rule` and the `window` that replace the preset's own.
        made: when, in ISO 8601.
        measured: the measurements that these were chosen by.
    """

    machine: dict[str, Any]
    model: str
    weights: str
    decoding: dict[str, dict[str, str]]
    made: str
    measured: dict[str, Any]


def machine_of(card: Card) -> dict[str, Any]:
    """The parts of a card that times depend on."""
    return {name: getattr(card, name) for name in ("chip", "gpu_cores", "memory_bytes", "backend")}


def folder() -> Path:
    """The folder of profiles."""
    from platformdirs import user_data_path

    named = os.environ.get(FOLDER)
    return Path(named) if named else user_data_path("diffucode", appauthor=False) / "tuned"


def path_of(weights: str, machine: dict[str, Any]) -> Path:
    """The file of a model's profile on a machine."""
    return folder() / f"{weights[:16]}-{hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:8]}.json"


def check_writable() -> None:
    """Make the folder. Raises `BenchError` if no profile can be stored in it."""
    there = folder()
    try:
        there.mkdir(parents=True, exist_ok=True)
        refused = None if os.access(there, os.W_OK) else "permission denied"
    except OSError as error:
        refused = error.strerror
    if refused:
        raise BenchError(f"{there}: a profile cannot be stored there ({refused}); name another folder with {FOLDER}")


def save(profile: Profile) -> Path:
    """Store a profile, replacing an older one, and return its file. Raises `BenchError` if it cannot be written."""
    check_writable()
    path = path_of(profile.weights, profile.machine)
    try:
        write_atomically(path, json.dumps({"version": VERSION, **vars(profile)}, indent=1) + "\n")
    except OSError as error:
        raise BenchError(f"{path}: the profile cannot be stored ({error.strerror}); name another folder with {FOLDER}") from None
    return path


def find(weights: str, card: Callable[[], Card]) -> Profile | None:
    """The profile of a model on this machine, or None.

    Args:
        weights: the digest of the model's weights.
        card: reads this machine's card, which takes a moment; called only if there is a profile of the model.

    Raises:
        BenchError: the profile is damaged, of another version, or of another model or machine.
    """
    if not any(folder().glob(f"{weights[:16]}-*.json")):
        return None
    machine = machine_of(card())
    path = path_of(weights, machine)
    if not path.exists():
        return None
    profile = _read(path)
    if profile.weights != weights:
        raise BenchError(f"{path}: tuned for another model, {profile.model[:80]!r}; not used, {AGAIN}")
    if profile.machine != machine:
        raise BenchError(f"{path}: tuned on another machine, {str(profile.machine.get('chip'))[:80]!r}; not used, {AGAIN}")
    return profile


def tuned_decoding(config: GenerationConfig, model: Any) -> dict[str, str] | None:
    """The rule and the window tuned for this machine and model, as fields of `GenerationConfig`.

    Args:
        config: decoding as a preset has it; only presets are tuned.

    Returns:
        None if `config` is that of no preset, or nothing is tuned for it.

    Raises:
        BenchError: there is a profile that cannot be used.
    """
    names = (name for name, own in PRESETS.items() if (config.rule, config.window) == (own["rule"], own["window"]))
    preset = next(names, None)
    if preset is None or not any(folder().glob("*.json")):
        return None
    from .chip import read_card

    profile = find(weights_digest(model), read_card)
    return profile.decoding.get(preset) if profile else None


def _read(path: Path) -> Profile:
    try:
        text = read_bytes(path, BenchError, LARGEST_JSON)
    except BenchError as error:
        raise BenchError(f"{error}; the tuned profile is not used, {AGAIN}") from None
    try:
        content = json.loads(text)
        version = content.pop("version")
        if version != VERSION:
            raise BenchError(
                f"{path}: a profile of version {version!r}, and this program reads version {VERSION}; not used, {AGAIN}"
            )
        profile = Profile(**content)
        kinds = {"machine": dict, "model": str, "weights": str, "decoding": dict, "made": str, "measured": dict}
        if not all(isinstance(getattr(profile, name), kind) for name, kind in kinds.items()):
            raise TypeError(path)
        for preset, own in profile.decoding.items():
            if preset not in PRESETS or own.keys() != {"rule", "window"} or not own["window"].startswith("tree"):
                raise ValueError(preset)
            GenerationConfig(rule=own["rule"], window=own["window"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ConfigError):
        raise BenchError(f"{path}: the tuned profile is damaged; not used, {AGAIN}") from None
    return profile
