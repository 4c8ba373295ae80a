"""Requests to the Hub over plain HTTP: tried again after passing trouble; files are resumed, and checked against the listing.

The client's own download is not used, because it starts an incomplete file from its beginning, and checks no hash. Its
session is: proxies, certificates, tokens and the address of the Hub are as the user has set them for it.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import HubError
from .background import Tell
from .cache import COMMIT, HASH, CachedRepo, matches
from .explain import WrongSize, constants, hub_error, passes, timed_out, wait_of

TRIES = 3
ENOUGH = 1 << 20
"""Bytes after which trouble is forgotten: a connection that breaks once an hour is not broken."""
LONGEST_WAIT = 120
"""Seconds that are waited when the Hub asks to; a longer wait is left to the user."""
XET_WAIT = 30
"""Seconds without news from Xet, which tells of large parts only."""
EVERY = 0.1
"""Seconds between two events about progress."""
SLOW_AFTER, SLOW = 15.0, 1000
"""Seconds of a request after which it is told that fewer bytes a second arrive."""
LARGEST_HEADER = 100_000_000


class RemoteFile(NamedTuple):
    """A file as the Hub lists it: its name, its bytes, and the hash of its content (see `cache`); None if not stated."""

    name: str
    size: int | None
    hash: str | None


@dataclass
class Patience:
    """Tries a request again: after trouble that may pass, three times without progress; after silence, once.

    Attributes:
        repo, what: for the message.
        wait: the seconds that a try waits for a connection, and for each part of an answer.
    """

    repo: str
    what: str
    wait: float
    tell: Tell
    spent: float = 0

    def attempt(self, action: Callable[[], Any]) -> Any:
        """The result of a request. Raises `HubError`."""
        while True:
            try:
                return action()
            except Exception as error:  # the HTTP library's classes differ between versions
                self.after(error)

    def after(self, error: Exception, grown: int = 0) -> None:
        """Wait until the next try. Raises `HubError` when there is none.

        Args:
            grown: bytes that arrived since the last trouble.
        """
        asked, silent = wait_of(error), timed_out(error)
        # Connections that break soon, but always later, come to an end. To wait for silence again and again does not.
        self.spent = 0 if grown >= ENOUGH else self.spent
        self.spent += TRIES / 2 if silent else 0.1 if grown else 1
        if isinstance(error, HubError) or not passes(error) or self.spent >= TRIES or (asked or 0) > LONGEST_WAIT:
            raise hub_error(error, self.repo, what=self.what, timeout=2 * self.wait) from None
        if asked:
            self.tell(note=f"{self.repo}: the Hub asks to wait {asked:.0f} s", wait=asked)
        elif silent:
            self.tell(note=f"{self.repo}: {self.what}: no answer for {self.wait:g} s; trying again")
        time.sleep(asked or (0.1 if grown or silent else 0.5 * 2**self.spent))


def list_files(repo: str, revision: str, what: str, wait: float, tell: Tell) -> tuple[str, dict[str, RemoteFile]]:
    """The commit of a revision, and its files by name. Raises `HubError`."""
    from huggingface_hub import HfApi

    def ask() -> tuple[str, dict[str, RemoteFile]]:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=wait)
        if not COMMIT.fullmatch(info.sha or ""):
            raise TypeError("it names no commit")
        return str(info.sha), {one.rfilename: _stated(one) for one in info.siblings or () if isinstance(one.rfilename, str)}

    return Patience(repo, what, wait, tell).attempt(ask)


def _stated(one: Any) -> RemoteFile:
    key, size = (one.lfs.sha256, one.lfs.size) if one.lfs else (one.blob_id, one.size)
    stated = key if isinstance(key, str) and HASH.fullmatch(key) else None
    return RemoteFile(one.rfilename, size if isinstance(size, int) and size >= 0 else None, stated)


@contextlib.contextmanager
def answer(repo: str, name: str, commit: str, wait: float, since: int = 0) -> Iterator[Any]:
    """The Hub's answer to a request for a file from a byte on, its body not read yet."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    # Compressed, a part could not be continued.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"} | ({"Range": f"bytes={since}-"} if since else {})
    url = hf_hub_url(repo, name, revision=commit)
    with get_session().stream("GET", url, headers=headers, timeout=wait, follow_redirects=True) as response:
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        yield response


@dataclass
class Fetch:
    """Brings the files of one commit into the cache.

    Attributes:
        arrived: the bytes on this disk of each file.
    """

    cache: CachedRepo
    commit: str
    wait: float
    arrived: dict[str, int]
    _told: float = 0

    def file(self, file: RemoteFile, tell: Tell) -> None:
        """Fetch a file, or the rest of it, unless it is in the cache. Raises `HubError`."""
        key = file.hash or self._etag(file.name, tell)
        if not self.cache.blob(key).exists():
            self._by_xet(file, tell)
        waiting = f"{self.cache.repo}: waiting: another process downloads {file.name}"
        with self.cache.locked(key, lambda: tell(note=waiting)):
            blob = self.cache.blob(key)
            if not self._is_whole(blob, file, key, tell):
                blob.unlink(missing_ok=True)
                blob.parent.mkdir(parents=True, exist_ok=True)
                self._to_partial(self.cache.partial(key), file, key, tell)
                self.cache.partial(key).replace(blob)
            self.arrived[file.name] = blob.stat().st_size
            self.cache.place(key, self.commit, file.name)

    def _to_partial(self, partial: Path, file: RemoteFile, key: str, tell: Tell) -> None:
        for _ in range(2):  # a part from an earlier time may be wrong
            self._receive(partial, file, tell)
            if self._is_whole(partial, file, key, tell):
                return
            partial.unlink()
        raise HubError(
            f"{self.cache.repo}: {file.name}: arrived damaged twice (its hash is not the listed one) and was removed;"
            " check the network for a proxy that changes files, or try again later"
        )

    def _etag(self, name: str, tell: Tell) -> str:
        """The hash by the file's own answer, where the listing has none."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.cache.repo, name, revision=self.commit)
        found = Patience(self.cache.repo, name, self.wait, tell).attempt(lambda: get_hf_file_metadata(url, timeout=self.wait))
        if not HASH.fullmatch(str(found.etag)):
            raise HubError(f"{self.cache.repo}: {name}: the server states no hash of it; check HF_ENDPOINT")
        return str(found.etag)

    def _is_whole(self, path: Path, file: RemoteFile, key: str, tell: Tell) -> bool:
        if not path.is_file() or (file.size is not None and path.stat().st_size != file.size):
            return False
        # Git's hash is known only from a listing: other servers have hashes of their own.
        return (file.hash is None and len(key) == 40) or matches(path, key, lambda _: tell())

    def _by_xet(self, file: RemoteFile, tell: Tell) -> None:
        """Let the client fetch a weight by Xet, where the user has set a variable of Xet."""
        wanted = file.name.endswith(".safetensors") and any(name.startswith("HF_XET_") for name in os.environ)
        if not wanted or constants().HF_HUB_DISABLE_XET:
            return
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import tqdm

        class Bar(tqdm):  # type: ignore[misc]
            """Shows nothing, and tells what arrived."""

            def update(_bar, n: float | None = 1) -> None:
                self.arrived[file.name] += int(n or 0)
                tell(file=file.name, bytes=sum(self.arrived.values()), wait=XET_WAIT)

        tell(wait=XET_WAIT)
        hf_hub_download(self.cache.repo, file.name, revision=self.commit, cache_dir=self.cache.root, tqdm_class=Bar)

    def _receive(self, partial: Path, file: RemoteFile, tell: Tell) -> None:
        """Fetch until the file has its size, from where the last try ended."""
        patience = Patience(self.cache.repo, file.name, self.wait, tell)
        with partial.open("ab", buffering=0) as out:
            while True:
                before = out.seek(0, 2)
                if file.size is not None and before > file.size:
                    before = out.truncate(0)
                self.arrived[file.name] = before
                if before == file.size and before:
                    return
                try:
                    self._stream(out, file, before, tell)
                    if file.size in (None, out.tell()):
                        return
                    raise WrongSize(f"the Hub lists {file.size} bytes, but sends {out.tell()}")
                except Exception as error:  # as above
                    patience.after(error, out.tell() - before)

    def _stream(self, out: Any, file: RemoteFile, since: int, tell: Tell) -> None:
        with answer(self.cache.repo, file.name, self.commit, self.wait, since) as response:
            if since and response.status_code != 206:  # the server knows no ranges: all of it comes
                out.truncate(0)
                out.seek(0)
            start, first, told = time.monotonic(), out.tell(), False
            for part in response.iter_bytes():
                out.write(part)
                self.arrived[file.name] = out.tell()
                if (now := time.monotonic()) - self._told > EVERY:
                    self._told = now
                    tell(file=file.name, bytes=sum(self.arrived.values()))
                arrived, seconds = out.tell() - first, now - start
                if not told and seconds > SLOW_AFTER and arrived < SLOW * seconds:
                    told = True
                    what = f"{self.cache.repo}: {file.name}: only {arrived} bytes in {seconds:.0f} s"
                    tell(note=f"{what}; Ctrl-C stops it, and what has arrived is kept")
                if file.size is not None and out.tell() > file.size:
                    raise HubError(f"{self.cache.repo}: {file.name}: the Hub sends more than the {file.size} bytes that it lists")


def fetch_header(repo: str, file: RemoteFile, tell: Tell, *, commit: str, wait: float, folder: Path) -> None:
    """Write a .safetensors file that has only its header; the weights are a hole of the right size, which takes no disk.

    Raises:
        HubError: it cannot be fetched, or has no header.
    """

    def header() -> bytes:
        head, end = b"", 8
        with answer(repo, file.name, commit, wait) as response:
            for part in response.iter_bytes():
                tell()
                head += part
                end = 8 + int.from_bytes(head[:8], "little")
                if len(head) >= 8 and len(head) >= min(end, LARGEST_HEADER):
                    break
        if not 8 < end <= len(head):
            raise HubError(f"{repo}: {file.name}: has no header that can be read")
        return head[:end]

    head = Patience(repo, file.name, wait, tell).attempt(header)
    with (folder / file.name).open("wb") as written:
        written.write(head)
        written.truncate(max(file.size or 0, len(head)))
