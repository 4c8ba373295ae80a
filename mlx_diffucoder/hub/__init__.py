"""A model that is named OWNER/NAME becomes a folder of the Hub's cache.

What is cached is used without asking. What is fetched is checked; `config.json` comes first and weights come last, so that
a model that cannot run costs nothing, and a snapshot that has its weights is whole.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..errors import CheckpointError, HubError
from .cache import CachedRepo
from .explain import constants, hub_errors
from .job import MAIN, SMALL_FILES, Download, Job, Progress, cached_models, missing_files
from .transfer import attempt, fetch_header

__all__ = [
    "Download",
    "Progress",
    "cached",
    "cached_models",
    "check_login",
    "constants",
    "fetch_model",
    "headers_only",
    "hub_errors",
    "parse_id",
]

ADDRESS = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/([\w.-]+))?(?:[/?#].*)?", re.ASCII
)
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@(\w[\w.-]*(?:/\w[\w.-]*)*))?", re.ASCII)


def parse_id(name: str) -> tuple[str, str | None] | None:
    """`OWNER/NAME` and the revision, of `OWNER/NAME@REVISION` or the Hub's address of a model; None for what is no Hub id."""
    found = ADDRESS.fullmatch(name) or _ID.fullmatch(name)
    return (found[1], found[2]) if found and not name.startswith(".") else None


def cached(name: str) -> Path | None:
    """The folder of a model in the Hub's cache, or None unless all that it needs is there. Nothing is asked or hashed.

    Raises:
        CheckpointError: the name is not a Hub id.
    """
    repo, revision = _split(name)
    cache = _cache(repo)
    commit = cache.commit_of(revision or MAIN)
    return cache.snapshot(commit) if commit and not missing_files(cache.snapshot(commit)) else None


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
    repo, revision = _split(name)
    cache = _cache(repo)
    job = Job(repo, revision or MAIN, cache, before_download, progress)
    commit = None if refresh else cache.commit_of(job.revision)
    damaged: list[Path] = []
    if commit and (cache.snapshot(commit) / "config.json").exists():
        damaged = job.check(cache.snapshot(commit))
        lost = missing_files(cache.snapshot(commit)) or [file.name for file in damaged]
        if not lost:
            return cache.snapshot(commit)
        if constants().HF_HUB_OFFLINE:
            remedy = f"; remove it with `rm {damaged[0]}`" if damaged else ""
            raise HubError(
                f"{repo}: {lost[0]} is {'damaged' if damaged else 'missing'} in the cache, and HF_HUB_OFFLINE is set; unset it,"
                f" and the same command fetches the file again{remedy}"
            )
    for _ in range(2):
        with hub_errors(repo):
            for file in damaged:
                cache.remove(file)
        folder, commit = job.fetch(commit, damaged)
        if not (damaged := job.check(folder)):  # what another program had fetched is checked here
            with hub_errors(repo):
                cache.remember(job.revision, commit)
            return folder
    raise HubError(f"{repo}: {damaged[0]} was fetched and is damaged again; check the disk, and HF_ENDPOINT")


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
    repo, revision = _split(name)
    job = Job(repo, revision or MAIN, _cache(repo), None, None)
    with tempfile.TemporaryDirectory(prefix="diffucode-") as made:
        commit, listed, names = job.begin(None)
        job.bring(commit, listed, SMALL_FILES)
        for file in job.cache.snapshot(commit).iterdir():
            if file.name in SMALL_FILES:
                shutil.copyfile(file, Path(made) / file.name)
        write = partial(fetch_header, repo, commit=commit, timeout=job.timeout, folder=Path(made))
        job.ask([partial(write, listed[name]) for name in names], "the headers of the weights")
        yield Path(made)


def check_login(repo: str) -> None:
    """Raise `HubError` unless the user is logged in to the Hub."""
    from huggingface_hub import HfApi

    job = Job(repo, MAIN, _cache(repo), None, None)
    job.ask([lambda tell: attempt(HfApi().whoami, repo, "", job.timeout, tell)], "your account")


def _split(name: str) -> tuple[str, str | None]:
    constants()  # first: it explains what the imports below would raise
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if (parts := parse_id(name)) is None:
        raise CheckpointError(f"{name}: not a Hub id (owner/name or owner/name@revision)")
    try:
        validate_repo_id(parts[0])
    except HFValidationError as error:
        raise CheckpointError(f"{name}: no such folder, and not a valid Hub id ({str(error).splitlines()[0]})") from None
    return parts


def _cache(repo: str) -> CachedRepo:
    return CachedRepo(Path(constants().HF_HUB_CACHE), repo)
