"""A model that is named OWNER/NAME becomes a folder of the Hub's cache.

What is cached is used without asking. What is fetched is checked; `config.json` comes first and weights come last, so that
a model that cannot run costs nothing, and a snapshot that has its weights is whole.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..errors import HubError
from .explain import constants, hub_errors
from .job import SMALL_FILES, AdapterJob, Download, Job, Progress, cached_models, missing_files, parse_id
from .transfer import Patience, fetch_header

__all__ = [
    "Download",
    "Progress",
    "cached",
    "cached_models",
    "check_login",
    "constants",
    "fetch_adapter",
    "fetch_model",
    "headers_only",
    "hub_errors",
    "missing_files",
    "parse_id",
]


def cached(name: str) -> Path | None:
    """The folder of a model in the Hub's cache, or None unless all that it needs is there. Nothing is asked or hashed.

    Raises:
        CheckpointError: the name is not a Hub id.
    """
    job = Job(name)
    commit = job.cache.commit_of(job.revision)
    return job.cache.snapshot(commit) if commit and not missing_files(job.cache.snapshot(commit)) else None


def fetch_model(
    name: str,
    *,
    refresh: bool = False,
    before_download: Callable[[Download], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a model, from the cache if it is whole there, and otherwise with what is missing fetched.

    Files in the cache are hashed once, and again when they have changed. A damaged one is fetched again.

    Args:
        name: OWNER/NAME or OWNER/NAME@REVISION.
        refresh: ask the Hub for a newer commit.
        before_download: called before the weights are fetched; it may raise to stop it.

    Raises:
        CheckpointError: the name is not a Hub id, or the repository holds no model that this program runs.
        ConfigError: its `config.json` has a value that cannot work.
        HubError: the Hub cannot be reached, refuses, or sends something else than it lists.
    """
    return _fetched(Job(name, before_download, progress), refresh=refresh)


def fetch_adapter(
    name: str,
    *,
    refresh: bool = False,
    before_download: Callable[[Download], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of an adapter. As `fetch_model`."""
    return _fetched(AdapterJob(name, before_download, progress), refresh=refresh)


def _fetched(job: Job, *, refresh: bool) -> Path:
    commit = None if refresh else job.cache.commit_of(job.revision)
    damaged: list[Path] = []
    if commit and ((folder := job.cache.snapshot(commit)) / job.first).exists():
        damaged = job.check(folder)
        lost = job.missing(folder) or [file.name for file in damaged]
        if not lost:
            return folder
        if constants().HF_HUB_OFFLINE:
            remedy = f"; remove it with `rm {damaged[0]}`" if damaged else ""
            raise HubError(
                f"{job.repo}: {lost[0]} is {'damaged' if damaged else 'missing'} in the cache, and HF_HUB_OFFLINE is set; unset"
                f" it, and the same command fetches the file again{remedy}"
            )
    for _ in range(2):
        job.fetch(commit, damaged)
        if not (damaged := job.check(job.snapshot)):  # what another program had fetched is checked here
            with hub_errors(job.repo):
                job.cache.remember(job.revision, job.commit)
            return job.snapshot
    raise HubError(f"{job.repo}: {damaged[0]} was fetched and is damaged again; check the disk, and HF_ENDPOINT")


@contextlib.contextmanager
def headers_only(name: str, *, refresh: bool = False) -> Iterator[Path]:
    """A temporary folder that has a model's configuration, its tokenizer, and of its weights only the headers.

    Of a model that is in the cache it is the folder itself. The weights read as zeros.

    Raises:
        as `fetch_model`.
    """
    if not refresh and (folder := cached(name)):
        yield folder
        return
    job = Job(name)
    with tempfile.TemporaryDirectory(prefix="diffucode-") as made:
        weights = job.begin()
        job.bring(SMALL_FILES)
        for file in job.snapshot.iterdir():
            if file.name in SMALL_FILES:
                shutil.copyfile(file, Path(made) / file.name)
        write = partial(fetch_header, job.repo, commit=job.commit, wait=job.wait, folder=Path(made))
        job.ask([partial(write, job.listed[name]) for name in weights], "the headers of the weights")
        yield Path(made)


def check_login(repo: str) -> None:
    """Raise `HubError` unless the user is logged in to the Hub."""
    from huggingface_hub import HfApi

    job = Job(repo)
    job.ask([lambda tell: Patience(repo, "", job.wait, tell).attempt(HfApi().whoami)], "your account")
