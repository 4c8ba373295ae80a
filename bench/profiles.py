"""Tuned windows, stored for one machine and one model.

A profile is used where the machine and every weight's digest are those it was tuned with, and nowhere else.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffucoder.choices import WINDOWS, parse_choice
from mlx_diffucoder.config import PRESETS
from mlx_diffucoder.errors import BenchError, ConfigError
from mlx_diffucoder.files import write_atomically

from .chip import Card

VERSION = 1
FOLDER = "DIFFUCODE_PROFILES"
"""The environment variable that names another folder for profiles than the user's own."""
AGAIN = "`diffucode bench --tune` makes it anew"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Windows by the preset whose own they take the place of.

    Attributes:
        machine: as `machine_of` has it.
        model: the name it had, for people.
        weights: as `weights_digest` has it, the dtype that is computed in included.
        measured: what the windows were chosen by.
    """

    machine: dict[str, Any]
    model: str
    weights: str
    windows: dict[str, str]
    made: str
    measured: dict[str, Any]


def machine_of(card: Card) -> dict[str, Any]:
    """What of a machine its times depend on."""
    return {
        "chip": card.chip,
        "gpu_cores": card.gpu_cores,
        "memory_bytes": card.memory_bytes,
        "backend": card.backend,
    }


def folder() -> Path:
    """Where profiles are stored."""
    from platformdirs import user_data_path

    named = os.environ.get(FOLDER)
    return Path(named) if named else user_data_path("diffucode", appauthor=False) / "tuned"


def path_of(weights: str, machine: dict[str, Any]) -> Path:
    """The file of a model's profile on a machine."""
    return folder() / f"{weights[:16]}-{hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:8]}.json"


def check_writable() -> None:
    """Make the folder. Raises `BenchError` where no profile can be stored in it."""
    there = folder()
    try:
        there.mkdir(parents=True, exist_ok=True)
        refused = None if os.access(there, os.W_OK) else "permission denied"
    except OSError as error:
        refused = error.strerror
    if refused:
        raise BenchError(f"{there}: a profile cannot be stored there ({refused}); name another folder with {FOLDER}")


def save(profile: Profile) -> Path:
    """Store a profile in the place of the one before; returns its file."""
    check_writable()
    path = path_of(profile.weights, profile.machine)
    try:
        write_atomically(path, json.dumps({"version": VERSION, **vars(profile)}, indent=1) + "\n")
    except OSError as error:
        raise BenchError(f"{path}: the profile cannot be stored ({error.strerror}); name another folder with {FOLDER}") from None
    return path


def stored() -> bool:
    """Whether there is a profile of anything."""
    try:
        return any(file.suffix == ".json" for file in folder().iterdir())
    except OSError:
        return False


def find(weights: str, card: Callable[[], Card]) -> Profile | None:
    """The profile of a model on this machine, where there is one.

    Args:
        card: reads this machine's card, which takes a moment; called where there is a profile of the model.

    Raises:
        BenchError: there is one that is damaged, of another version, or not of this model and machine.
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


def _read(path: Path) -> Profile:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("version")
        if version != VERSION:
            raise BenchError(f"{path}: a profile of version {version!r}, and this program reads {VERSION}; not used, {AGAIN}")
        profile = Profile(**content)
        kinds = {"machine": dict, "model": str, "weights": str, "windows": dict, "made": str, "measured": dict}
        if not all(isinstance(getattr(profile, name), kind) for name, kind in kinds.items()):
            raise TypeError(path)
        for preset, window in profile.windows.items():
            if preset not in PRESETS or parse_choice(window, WINDOWS, "window")[0] != "sliding":
                raise ValueError(preset)
    except OSError as error:
        raise BenchError(f"{path}: the tuned profile cannot be read ({error.strerror}); not used, {AGAIN}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ConfigError):
        raise BenchError(f"{path}: the tuned profile is damaged; not used, {AGAIN}") from None
    return profile
