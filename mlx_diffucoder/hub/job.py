"""One model that is fetched: in which order, and what is refused before its weights are."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint import read_model_config
from ..errors import CheckpointError, ConfigError, HubError, did_you_mean
from ..files import read_json
from ..models import find_family
from ..tokenizer_files import COPIED
from ..weight_files import INDEX, WHOLE, shard_names
from .background import Tell, in_background
from .cache import CachedRepo
from .explain import NoRevision, NotOnHub, constants, hub_errors
from .transfer import Fetch, RemoteFile, list_files

MAIN = "main"
SMALL_FILES = ("config.json", INDEX, "tokenizer.json", "tokenizer_config.json", "README.md", *COPIED)
"""The files of a repository besides its weights: never code."""
LIST = "the list of files"
OTHER_FORMATS = {".gguf": "GGUF files, which are llama.cpp's", ".bin": "pickled weights", ".pt": "pickled weights"}

Progress = Callable[[str, int, int], None]
"""Called with what is fetched or checked, the bytes so far, and the bytes in all."""
_log = logging.getLogger("mlx_diffucoder")


@dataclass(frozen=True)
class Download:
    """A download that is about to start.

    Attributes:
        repo: OWNER/NAME.
        total: the bytes of the weights and the other files that are needed.
        missing: the bytes of those that are not in the cache.
        folder: the folder of the cache.
        damaged: the names of files that are fetched because those in the cache are damaged.
    """

    repo: str
    total: int
    missing: int
    folder: Path
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One model that is fetched."""

    repo: str
    revision: str
    cache: CachedRepo
    before_download: Callable[[Download], None] | None
    progress: Progress | None

    @property
    def timeout(self) -> float:
        """The seconds that a request waits for a connection and for each part of an answer."""
        return float(constants().HF_HUB_DOWNLOAD_TIMEOUT)

    def check(self, snapshot: Path) -> list[Path]:
        """The damaged files of a snapshot."""
        files = [snapshot / name for name in SMALL_FILES]
        with contextlib.suppress(CheckpointError):
            files += [snapshot / name for name in {*shard_names(snapshot), WHOLE}]
        with contextlib.suppress(OSError):
            return self.cache.damaged([file for file in files if file.is_file()], self.progress)
        return []

    def ask(
        self, works: Sequence[Callable[[Tell], Any]], what: str, progress: Progress | None = None, total: int = 0
    ) -> list[Any]:
        """The results of requests. Tells the progress, and prints each notice once."""
        if constants().HF_HUB_OFFLINE:
            raise HubError(f"{self.repo}: {what} cannot be fetched while HF_HUB_OFFLINE is set; unset it, or use -m pocket")
        noted = set()

        def on_event(event: dict[str, Any]) -> None:
            if progress and "bytes" in event:
                progress(event["file"], event["bytes"], total)
            if (note := event.get("note")) and note not in noted:
                noted.add(note)
                _log.warning(note)

        with hub_errors(self.repo):
            return in_background(works, what=f"{self.repo}: {what}", limit=3 * self.timeout + 5, on_event=on_event)

    def listing(self, revision: str) -> tuple[str, dict[str, RemoteFile]]:
        """The commit of a revision, and its files by name."""
        return self.ask([partial(list_files, self.repo, revision, LIST, self.timeout)], LIST)[0]

    def begin(self, commit: str | None) -> tuple[str, dict[str, RemoteFile], list[str]]:
        """The commit, its files by name, and the names of its weights. Fetches the configuration and the index."""
        try:
            commit, listed = self.listing(commit or self.revision)
        except NoRevision:
            if not commit or commit == self.revision:
                raise HubError(f"{self.repo}: has no revision {self.revision}; name a branch, a tag or a commit") from None
            commit, listed = self.listing(self.revision)  # the cached commit was removed there
        except NotOnHub as error:
            raise HubError(f"{error}{did_you_mean(self.repo, cached_models())}") from None
        if "config.json" not in listed:
            raise CheckpointError(f"{self.repo}: has no config.json{_other_formats(listed)}; name a checkpoint with one")
        self.bring(commit, listed, ("config.json",))
        snapshot = self.cache.snapshot(commit)
        try:
            read_model_config(snapshot)
        except (CheckpointError, ConfigError) as error:
            text = str(error).replace(f"{snapshot}/", "")
            raise type(error)(f"{self.repo}: {text}") from None
        if not any(name.endswith(".safetensors") and "/" not in name for name in listed):
            raise CheckpointError(f"{self.repo}: has no .safetensors{_other_formats(listed)}; name a checkpoint with them")
        self.bring(commit, listed, (INDEX,))
        if INDEX not in listed:
            weights = [name for name in sorted(listed) if re.fullmatch(r"model[\w.-]*\.safetensors", name)]
        else:
            weights = shard_names(snapshot)
        lost = [name for name in weights if name not in listed] or ([] if weights else [WHOLE])
        if lost and WHOLE in listed:  # an index that was left behind when the weights were saved as one file
            return commit, listed, [WHOLE]
        if lost:
            raise CheckpointError(f"{self.repo}: has no {lost[0]}; the repository is not complete")
        return commit, listed, weights

    def fetch(self, commit: str | None, damaged: Sequence[Path]) -> tuple[Path, str]:
        """Fetch what is missing. Returns the snapshot and its commit."""
        commit, listed, weights = self.begin(commit)
        snapshot = self.cache.snapshot(commit)
        wanted = [name for name in SMALL_FILES if name in listed] + weights
        if missing := [name for name in wanted if not (snapshot / name).exists()]:
            sizes = {name: listed[name].size or 0 for name in wanted}
            self.cache.clean({str(listed[name].hash) for name in wanted})
            needed = sum(max(0, sizes[name] - self._there(listed[name])) for name in missing)
            if self.before_download is not None and set(missing) & set(weights):
                names = tuple(file.name for file in damaged)
                self.before_download(Download(self.repo, sum(sizes.values()), needed, self.cache.root, names))
            self.bring(commit, listed, SMALL_FILES)
            self.bring(commit, listed, weights, self.progress)
            self.cache.clean(set())
        return snapshot, commit

    def bring(self, commit: str, listed: dict[str, RemoteFile], names: Iterable[str], progress: Progress | None = None) -> None:
        """Fetch those of some files that the repository has and the snapshot has not."""
        snapshot = self.cache.snapshot(commit)
        if files := [listed[name] for name in names if name in listed and not (snapshot / name).exists()]:
            what = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
            arrived = {file.name: self._there(file) for file in files}
            job = Fetch(self.cache, commit, self.timeout, arrived)
            self.ask([partial(job.file, file) for file in files], what, progress, sum(file.size or 0 for file in files))
            self.cache.trust([snapshot / file.name for file in files])

    def _there(self, file: RemoteFile) -> int:
        """The bytes of a file that are on this disk."""
        for path in (self.cache.blob(file.hash), self.cache.partial(file.hash)) if file.hash else ():
            if path.exists():
                return path.stat().st_size
        return 0


def cached_models() -> list[str]:
    """The models in the Hub's cache that this program runs."""
    names = []
    for config in sorted(Path(constants().HF_HUB_CACHE).glob("models--*--*/snapshots/*/config.json")):
        name = config.parents[2].name.removeprefix("models--").replace("--", "/", 1)
        with contextlib.suppress(CheckpointError):
            if name not in names and find_family(read_json(config)):
                names.append(name)
    return names


def missing_files(snapshot: Path) -> list[str]:
    """The files that a snapshot needs and has not."""
    needed = ["config.json"]
    if not (snapshot / "tokenizer.json").exists():
        needed += ["vocab.json", "merges.txt"]
    if not (snapshot / WHOLE).exists():
        try:
            needed += shard_names(snapshot)
        except CheckpointError:
            needed.append(WHOLE)
    return [name for name in needed if not (snapshot / name).exists()]


def _other_formats(names: Any) -> str:
    found = {text for name in names for suffix, text in OTHER_FORMATS.items() if str(name).endswith(suffix)}
    return f", only {' and '.join(sorted(found))}" if found else ""
