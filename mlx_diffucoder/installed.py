"""The models that are on this machine: in the Hub's cache, and converted by `diffucode models pull`."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .catalogue import BITS, CATALOGUE, PUBLISHED_BITS, Published, find
from .errors import CheckpointError
from .files import UNFINISHED
from .hub import cached, cached_models, constants, hub_errors, missing_files
from .hub.cache import INCOMPLETE

CONVERSIONS = "DIFFUCODE_CONVERSIONS"
"""The environment variable that names the folder of conversions, instead of one in the user's cache."""


@dataclass(frozen=True)
class Installed:
    """A model on this machine.

    Attributes:
        name: what `--model` takes.
        repo: its Hub id; None for a conversion made here.
        path: its folder.
        bytes: what it takes on the disk, with what has arrived of incomplete files.
        whole: whether it can be loaded.
    """

    name: str
    repo: str | None
    path: Path
    bytes: int
    whole: bool


def conversions() -> Path:
    """The folder of the conversions that `diffucode models pull` makes."""
    from platformdirs import user_cache_path

    named = os.environ.get(CONVERSIONS)
    return Path(named) if named else user_cache_path("diffucode", appauthor=False) / "models"


def conversion_of(model: Published, bits: int) -> Path:
    """The folder that `diffucode models pull` converts a model into."""
    return conversions() / f"{model.short_name}-{bits}bit"


def converted(name: str) -> Path | None:
    """The folder of the conversion that a name with bits stands for; None if there is none. Raises as `find`."""
    model, bits = find(name) or (None, None)
    folder = conversion_of(model, bits) if model and bits else None
    return folder if folder and (folder / "config.json").exists() else None


def place_of(model: Published, bits: int) -> str | None:
    """A conversion's name, or the Hub id of weights in the cache; None if neither is on this machine."""
    name, repo = model.at(bits), model.repos.get(bits)
    return name if converted(name) else repo if repo and cached(repo) else None


def full_name(name: str | os.PathLike[str]) -> str:
    """A name such as `stable-diffcoder`, as the Hub id or the name with bits that it stands for; any other name as it is.

    A folder of that name goes first. Without bits it is the quantized model with the most bits, or else the published one.

    Raises:
        CheckpointError: there are no such bits, or the model is not on this machine.
    """
    name = os.fspath(name)
    if (named := find(name)) is None or Path(name).exists():
        return name
    model, bits = named
    here = {one: place for one in BITS if (place := place_of(model, one))}
    quantized = max(here.keys() - {PUBLISHED_BITS}, default=PUBLISHED_BITS)
    if place := here.get(bits or quantized):
        return place
    others = f", only {' and '.join(map(model.at, here))}" if here else ""
    wanted = model.at(bits) if bits else model.short_name
    raise CheckpointError(f"{name} is not on this machine{others}; run `diffucode models pull {wanted}`")


def installed() -> list[Installed]:
    """The models on this machine that run, by name."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    short = {repo: model.at(bits) for model in CATALOGUE for bits, repo in model.repos.items()}
    made = {name: folder for model in CATALOGUE for name in map(model.at, BITS) if (folder := converted(name))}
    found = [Installed(name, None, folder, _bytes(folder), whole=True) for name, folder in made.items()]
    with hub_errors("the Hub's cache", "read", "check HF_HOME"), suppress(CacheNotFound):
        runs = cached_models()
        for repo in scan_cache_dir(constants().HF_HUB_CACHE).repos:
            if repo.repo_type == "model" and repo.repo_id in runs:
                size = repo.size_on_disk + _bytes(repo.repo_path / "blobs", "*" + INCOMPLETE)
                whole = any(not missing_files(one.snapshot_path) for one in repo.revisions)
                found.append(Installed(short.get(repo.repo_id, repo.repo_id), repo.repo_id, repo.repo_path, size, whole))
    return sorted(found, key=lambda one: (one.name, one.repo or ""))


def remove(one: Installed) -> None:
    """Remove a model from this machine. Raises `CheckpointError` or `HubError` if it cannot be."""
    from huggingface_hub import scan_cache_dir

    if one.repo is None:
        hidden = one.path.with_name(f".{one.path.name}{UNFINISHED}")  # what is left after a kill, the next conversion removes
        try:
            shutil.rmtree(hidden, ignore_errors=True)
            shutil.rmtree(one.path.rename(hidden))
        except OSError as error:
            raise CheckpointError(f"{one.path}: cannot be removed ({error.strerror})") from None
        return
    with hub_errors(one.repo, "removed", f"remove {one.path} yourself"):
        cache = scan_cache_dir(constants().HF_HUB_CACHE)
        hashes = [each.commit_hash for repo in cache.repos if repo.repo_path == one.path for each in repo.revisions]
        cache.delete_revisions(*hashes).execute()
        if one.path.exists():  # the client only warns
            raise CheckpointError(f"{one.path}: cannot be removed; check its permissions")


def _bytes(folder: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern))
