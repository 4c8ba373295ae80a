"""One model that is fetched: in which order, and what is refused before its weights are."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint import read_model_config
from ..errors import CheckpointError, ConfigError, HubError, did_you_mean
from ..files import read_json
from ..models import find_family
from ..tokenizer import Tokenizer
from ..tokenizer_files import COPIED, TOKEN_FILES, added_tokens
from ..weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WHOLE, shard_names
from .background import Tell, in_background
from .cache import CachedRepo
from .explain import NoRevision, NotOnHub, constants, hub_errors
from .transfer import Fetch, RemoteFile, list_files

SMALL_FILES = ("config.json", INDEX, "tokenizer.json", "tokenizer_config.json", *COPIED)
"""The files of a repository that are needed besides its weights: never code."""
CARD = "README.md"
"""The model card. A conversion takes the licence from it; a model runs without."""
LIST = "the list of files"
OTHER_FORMATS = {".gguf": "GGUF files, which are llama.cpp's", ".bin": "pickled weights", ".pt": "pickled weights"}
ADDRESS = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/(?!(?:datasets|spaces)/)([\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/([\w.-]+))?(?:[/?#].*)?",
    re.ASCII,
)
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@(\w[\w.-]*(?:/\w[\w.-]*)*))?", re.ASCII)

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


def parse_id(name: str) -> tuple[str, str | None] | None:
    """`OWNER/NAME` and the revision, of `OWNER/NAME@REVISION` or the Hub's address of a model; None for what is no Hub id."""
    found = ADDRESS.fullmatch(name) or _ID.fullmatch(name)
    return (found[1], found[2]) if found and not name.startswith(".") else None


class Job:
    """One model that is fetched. Raises `CheckpointError` for a name that is no Hub id.

    Attributes:
        first, small: the file that says what it is, and the files that are needed besides its weights.
        commit, listed: what the revision is on the Hub, and its files by name; known after `begin`.
        wait: the seconds that a request waits for a connection and for each part of an answer: half of the client's setting,
            because after a silence it is tried once more.
    """

    first: str = "config.json"
    small: tuple[str, ...] = SMALL_FILES
    commit: str
    listed: Mapping[str, RemoteFile]

    def __init__(
        self, name: str, before_download: Callable[[Download], None] | None = None, progress: Progress | None = None
    ) -> None:
        settings = constants()  # first: it explains what the imports below would raise
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        if (parts := parse_id(name)) is None:
            raise CheckpointError(f"{name}: not a Hub id (owner/name or owner/name@revision)")
        self.repo, self.revision = parts[0], parts[1] or "main"
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise CheckpointError(f"{name}: no such folder, and not a valid Hub id ({str(error).splitlines()[0]})") from None
        self.cache = CachedRepo(Path(settings.HF_HUB_CACHE), self.repo)
        self.wait = float(settings.HF_HUB_DOWNLOAD_TIMEOUT) / 2
        self.before_download, self.progress = before_download, progress

    @property
    def snapshot(self) -> Path:
        """The folder of the commit."""
        return self.cache.snapshot(self.commit)

    def missing(self, snapshot: Path) -> list[str]:
        """The files that a snapshot needs and has not."""
        return missing_files(snapshot)

    def check(self, snapshot: Path) -> list[Path]:
        """The damaged files of a snapshot."""
        names = {*self.small, *ADAPTER_WEIGHTS, CARD, WHOLE}
        with contextlib.suppress(CheckpointError):
            names |= {*shard_names(snapshot)}
        with contextlib.suppress(OSError):
            return self.cache.damaged([snapshot / name for name in sorted(names) if (snapshot / name).is_file()], self.progress)
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
            return in_background(works, what=f"{self.repo}: {what}", limit=2 * self.wait + 5, on_event=on_event)

    def find(self, commit: str | None) -> None:
        """Ask for the list of files."""
        for revision in dict.fromkeys((commit or self.revision, self.revision)):  # a cached commit may be gone there
            try:
                [(self.commit, self.listed)] = self.ask([partial(list_files, self.repo, revision, LIST, self.wait)], LIST)
                return
            except NoRevision:
                continue
            except NotOnHub as error:
                raise HubError(f"{error}{did_you_mean(self.repo, cached_models())}") from None
        raise HubError(f"{self.repo}: has no revision {self.revision}; name a branch, a tag or a commit")

    def begin(self, commit: str | None = None) -> list[str]:
        """Ask for the list of files, fetch the configuration and the index. Returns the names of the weights."""
        self.find(commit)
        if "config.json" not in self.listed and ADAPTER_CONFIG in self.listed:
            raise CheckpointError(f"{self.repo}: is an adapter: name its base with --model, and this one with --adapter")
        if "config.json" not in self.listed:
            raise CheckpointError(f"{self.repo}: has no config.json{self._other_formats()}; name a checkpoint with one")
        self.bring(("config.json", *TOKEN_FILES))
        with self._named():
            read_model_config(self.snapshot)
        if not any(name.endswith(".safetensors") and "/" not in name for name in self.listed):
            raise CheckpointError(f"{self.repo}: has no .safetensors{self._other_formats()}; name a checkpoint with them")
        self.bring((INDEX,))
        if INDEX in self.listed:
            with self._named():
                weights = shard_names(self.snapshot)
        else:
            weights = [name for name in sorted(self.listed) if re.fullmatch(r"model[\w.-]*\.safetensors", name)] or [WHOLE]
        if lost := [name for name in weights if name not in self.listed]:
            if WHOLE not in self.listed:
                raise CheckpointError(f"{self.repo}: has no {lost[0]}; the repository is not complete")
            weights = [WHOLE]  # the index was left behind when the weights were saved as one file
        return weights

    def fetch(self, commit: str | None, damaged: Sequence[Path]) -> None:
        """Fetch what is missing or damaged."""
        with hub_errors(self.repo):
            for file in damaged:
                self.cache.remove(file)
        weights = self.begin(commit)
        wanted = [self.listed[name] for name in (*self.small, *weights) if name in self.listed]
        if missing := self._missing(wanted):
            self.cache.clean({str(file.hash) for file in wanted})
            if self.before_download is not None and {file.name for file in missing} & set(weights):
                needed = sum(max(0, (file.size or 0) - self._there(file)) for file in missing)
                total, names = sum(file.size or 0 for file in wanted), tuple(file.name for file in damaged)
                self.before_download(Download(self.repo, total, needed, self.cache.root, names))
            self.bring(self.small)
            if self.first == "config.json":
                with self._named():
                    Tokenizer.load(self.snapshot)
            try:
                self.bring((CARD,))
            except HubError as error:
                _log.warning(f"{error}; it goes on without this model card, so a conversion will not know the licence")
            self.bring(weights, self.progress)
            self.cache.clean(set())

    def bring(self, names: Iterable[str], progress: Progress | None = None) -> None:
        """Fetch those of some files that the repository has and the snapshot has not."""
        if files := self._missing(self.listed[name] for name in names if name in self.listed):
            what = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
            job = Fetch(self.cache, self.commit, self.wait, {file.name: self._there(file) for file in files})
            self.ask([partial(job.file, file) for file in files], what, progress, sum(file.size or 0 for file in files))
            self.cache.trust([self.snapshot / file.name for file in files])

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Name the model in place of the cache's folder in errors about files that the Hub has like this."""
        try:
            yield
        except (CheckpointError, ConfigError) as error:
            text = str(error).replace(f"{self.snapshot}/", "").removeprefix(f"{self.snapshot}: ")
            raise type(error)(f"{self.repo}: {text}") from None

    def _missing(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        return [file for file in files if not (self.snapshot / file.name).exists()]

    def _there(self, file: RemoteFile) -> int:
        """The bytes of a file that are on this disk."""
        paths = (self.cache.blob(file.hash), self.cache.partial(file.hash)) if file.hash else ()
        return next((path.stat().st_size for path in paths if path.exists()), 0)

    def _other_formats(self) -> str:
        found = {text for name in self.listed for suffix, text in OTHER_FORMATS.items() if name.endswith(suffix)}
        return f", only {' and '.join(sorted(found))}" if found else ""


class AdapterJob(Job):
    """One adapter that is fetched, in PEFT's layout or mlx-lm's."""

    first, small = ADAPTER_CONFIG, (ADAPTER_CONFIG,)

    def missing(self, snapshot: Path) -> list[str]:
        there = any((snapshot / name).exists() for name in ADAPTER_WEIGHTS)
        return [] if there else [ADAPTER_WEIGHTS[0]]

    def begin(self, commit: str | None = None) -> list[str]:
        """Ask for the list of files. Returns the name of the weights."""
        self.find(commit)
        weights = [name for name in ADAPTER_WEIGHTS if name in self.listed][:1]
        if self.first not in self.listed:
            raise CheckpointError(f"{self.repo}: has no {self.first}, so it is no adapter; name a repository with one")
        if not weights:
            raise CheckpointError(
                f"{self.repo}: has no {ADAPTER_WEIGHTS[0]}{self._other_formats()}; name an adapter with one: a pickle can run"
                " code and is never read here"
            )
        return weights


def cached_models() -> list[str]:
    """The models in the Hub's cache that this program runs."""
    names = dict[str, None]()
    for config in sorted(Path(constants().HF_HUB_CACHE).glob("models--*--*/snapshots/*/config.json")):
        with contextlib.suppress(CheckpointError):
            if find_family(read_json(config), added_tokens(config.parent)):
                names[config.parents[2].name.removeprefix("models--").replace("--", "/", 1)] = None
    return list(names)


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
