"""The Hub's cache on this disk, in the layout of its own client, so that both share what is there.

A repository is a folder `models--OWNER--NAME`: `refs/REVISION` holds a commit, `snapshots/COMMIT/` links to files, and
`blobs/` holds the files under the hash of their content: the SHA-256 of a large file, git's hash of a small one. A file that
is not complete is `blobs/HASH.incomplete`. Lock files are in `.locks/`, as the client has them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..files import json_object, write_atomically

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
INCOMPLETE = ".incomplete"
CHECKED = ".diffucode-checked.json"
"""In a repository's folder: the size and time of each blob that was checked, so that it is hashed once."""
CHUNK = 8 << 20


@dataclass(frozen=True)
class CachedRepo:
    """One model repository in the cache.

    Attributes:
        root: the folder of the cache.
        repo: OWNER/NAME.
    """

    root: Path
    repo: str

    @property
    def folder(self) -> Path:
        return self.root / f"models--{self.repo.replace('/', '--')}"

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit was when it was last fetched, or None."""
        commit = revision
        if not COMMIT.fullmatch(revision):
            with contextlib.suppress(OSError, ValueError):
                commit = (self.folder / "refs" / revision).read_text().strip()
        return commit if COMMIT.fullmatch(commit) else None

    def remember(self, revision: str, commit: str) -> None:
        """Write which commit a branch or a tag is."""
        path = self.folder / "refs" / revision
        if self.commit_of(revision) != commit:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, commit)

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit."""
        return self.folder / "snapshots" / commit

    def blob(self, key: str) -> Path:
        """The file whose content has a hash."""
        return self.folder / "blobs" / key

    def partial(self, key: str) -> Path:
        """What has arrived of a blob."""
        return self.blob(key + INCOMPLETE)

    def place(self, key: str, commit: str, name: str) -> None:
        """Make a blob a file of a commit: a relative link, or the file itself where there are no links."""
        link = self.snapshot(commit) / name
        link.parent.mkdir(parents=True, exist_ok=True)
        new = link.with_name(f".{name[:100]}.{os.getpid()}")
        new.unlink(missing_ok=True)
        try:
            new.symlink_to(os.path.relpath(self.blob(key), link.parent))
        except OSError:  # a file system without symbolic links
            self.blob(key).replace(new)
        new.replace(link)

    @contextlib.contextmanager
    def locked(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
        """Hold the lock of a blob, and yield whether it is held. The kernel releases it when the process ends, however it ends.

        Args:
            waiting: called twice a second while another process holds it; None gives up at once.
        """
        path = self.root / ".locks" / self.folder.name / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            while not (held := _lock(file)) and waiting is not None:
                waiting()
                time.sleep(0.5)
            yield held

    def clean(self, keep: set[str]) -> None:
        """Remove what ended downloads left, except those of the hashes in `keep`. Running ones hold their lock."""
        for path in (self.folder / "blobs").glob("*" + INCOMPLETE):
            key = path.name.split(".")[0]
            if path != self.partial(key) or key not in keep:
                with contextlib.suppress(OSError), self.locked(key) as held:
                    if held:
                        path.unlink()

    def damaged(self, files: list[Path], tell: Callable[[str, int, int], None] | None = None) -> list[Path]:
        """Those of a snapshot's files that do not hold what their hash says. A file is hashed when it is new or changed.

        Args:
            tell: called with a name, the bytes read so far, and the bytes to read.
        """
        known = self._checked()
        new = [file for file in files if known.get(key_of(file)) != stamp(file)]
        total, done, good = sum(file.stat().st_size for file in new), 0, list[Path]()

        def read(count: int) -> None:
            nonlocal done
            done += count
            if tell is not None:
                tell(f"checking {file.name}", done, total)

        for file in new:
            key = key_of(file)
            # Servers other than the Hub name small files by hashes of their own.
            if matches(file, key, read) or (len(key) != 64 and key not in known and _is_readable(file)):
                good.append(file)
        self.trust(good)
        return [file for file in new if file not in good]

    def trust(self, files: list[Path]) -> None:
        """Note that files hold what they should, as they are now."""
        if files:
            with contextlib.suppress(OSError):  # a cache that cannot be written is checked each time
                noted = self._checked() | {key_of(file): stamp(file) for file in files}
                write_atomically(self.folder / CHECKED, json.dumps(noted))

    def remove(self, file: Path) -> None:
        """Remove a file of a snapshot, and the blob that it links to."""
        for path in (file.resolve(), self.blob(key_of(file)), file):
            path.unlink(missing_ok=True)

    def _checked(self) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            return json_object((self.folder / CHECKED).read_bytes()) or {}
        return {}


def matches(file: Path, key: str, read: Callable[[int], None]) -> bool:
    """Whether a file has the hash `key`: SHA-256 in 64 digits, git's hash of a blob in 40. Other keys match nothing.

    Args:
        read: called with the number of bytes after each part.
    """
    digest = hashlib.sha256()
    if len(key) == 40:
        digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as stream:
        while HASH.fullmatch(key) and (part := stream.read(CHUNK)):
            digest.update(part)
            read(len(part))
    return digest.hexdigest() == key


def key_of(file: Path) -> str:
    """The hash that a snapshot's file links to; its own name where it is no link."""
    return file.readlink().name if file.is_symlink() else file.name


def stamp(file: Path) -> list[int]:
    """What changes when a file is written: its size in bytes and its time in nanoseconds."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _is_readable(file: Path) -> bool:
    """Whether a small file can be what it should."""
    return file.stat().st_size > 0 if file.suffix != ".json" else json_object(file.read_bytes()) is not None


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: the client goes on, too
        pass
    return True
