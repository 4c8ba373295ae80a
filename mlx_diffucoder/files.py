"""Files and folders are written whole or not at all; JSON is read with errors that name the file."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CheckpointError, ConvertError, DiffucoderError, FileError
from .file_kinds import HARMLESS, LARGEST_JSON, known_content, read_bytes
from .formatting import format_bytes

UNFINISHED = ".unfinished"

Content = str | bytes | Callable[[Path], object]
"""What a file is to hold: text (written as UTF-8, line ends unchanged), bytes, or a function that writes to a path."""


def write_atomically(path: Path, content: Content, *, private: bool = False) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    The content goes to a temporary file in the same folder, then to the disk, and is renamed. A symbolic link
    keeps pointing to its file. A file that exists keeps its owner and permissions. A device or a pipe is written directly.

    Args:
        private: whether a new file may be read by its owner alone.

    Raises:
        OSError: the file cannot be written, or not with the owner that it has. Its old content is unchanged.
    """
    import tempfile  # slow to import, and most commands write no file

    path = path.resolve()
    if path.exists() and not path.is_file():  # a device or a pipe: a rename would replace it by a file
        _write(path, content)
        return
    handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=path.suffix, dir=path.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        _write(unfinished, content)
        _keep_owner(path, unfinished)
        unfinished.chmod(_mode(path, private))
        flush_to_disk(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def temporary_names(path: Path) -> str:
    """A glob of the names that `write_atomically` gives to a file's unfinished content; a kill leaves one of them."""
    return f"{glob.escape(_prefix(path))}????????{glob.escape(path.suffix)}"


def _prefix(path: Path) -> str:
    return f".{path.stem[:64]}."


def write_output(path: Path, content: Content, *, flag: str) -> None:
    """`write_atomically` for a file that a flag names. Raises `FileError`, which names the flag and the file."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise FileError(f"{flag} {path}: cannot be written ({error.strerror or error})") from None


def check_output(path: Path, mark: str, what: str, *, flag: str, error: type[DiffucoderError] = FileError) -> None:
    """Raise `error` if a file that a flag names cannot be written later, or exists and is not one that this program wrote.

    Args:
        mark: a text that each such file has near its start or its end.
        what: such a file, for the message.
    """
    try:
        if path.is_dir() or not path.parent.is_dir():
            reason = "it is a folder" if path.is_dir() else "its folder does not exist"
            raise error(f"{flag} {path}: cannot be written ({reason}); name a file in an existing folder")
        if path.is_fifo() and not HARMLESS.fullmatch(str(path)):  # it would wait for a reader, perhaps for ever
            raise error(f"{flag} {path}: is a pipe; name a file, or /dev/stdout")
        if path.is_file() and path.stat().st_size and mark.encode() not in _ends(path):
            raise error(f"{flag} {path}: exists and is not {what}; name another file, or remove it")
    except OSError as reason:
        raise error(f"{flag} {path}: cannot be written ({reason.strerror})") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise error(f"{flag} {path}: cannot be written (permission denied); name another file")


def _ends(path: Path) -> bytes:
    """The first bytes of a file and the last."""
    count = 2**16
    with path.open("rb") as file:
        start = file.read(count)
        file.seek(max(0, path.stat().st_size - count))
        return start + file.read(count)


@contextlib.contextmanager
def folder_atomically(path: Path, *, flush: bool = False) -> Iterator[Path]:
    """A hidden folder to write into. It becomes `path` when the block ends, and is removed where the block fails.

    Args:
        flush: wait until the files are on the disk before the folder gets its name.

    Raises:
        OSError: the folder cannot be made or renamed.
    """
    unfinished = path.parent / f".{path.name}{UNFINISHED}"
    if os.path.lexists(unfinished):  # left by a process that was killed
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    try:
        yield unfinished
        for file in unfinished.iterdir() if flush else ():
            flush_to_disk(file)
        unfinished.rename(path)
        if flush:
            flush_to_disk(path.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """`folder_atomically` for a checkpoint folder that must not exist, with a lock against a second writer.

    The kernel releases the lock of a process that dies, so a lock that is held means a running conversion.

    Raises:
        ConvertError: `out` exists, cannot be written, or is being written by another conversion.
    """
    try:
        out = out.expanduser()
        out.parent.mkdir(parents=True, exist_ok=True)
        str(out).encode()  # MLX takes only names that are valid UTF-8
    except (OSError, RuntimeError, ValueError) as error:
        raise ConvertError(f"{str(out)[:200]}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    hidden = out.parent / f".{out.name}{UNFINISHED}"
    lock = hidden.with_name(hidden.name + ".lock")
    try:
        with _locked(lock, out):
            if os.path.lexists(out):
                raise ConvertError(f"{out}: exists already; name a new folder or remove it first")
            with folder_atomically(out) as unfinished:
                yield unfinished
    except OSError as error:
        file = Path(error.filename) if isinstance(error.filename, str) else out
        ours = file in (out, lock) or hidden in (file, *file.parents)
        what = f"{str(out)[:200]}: cannot be written" if ours else f"{file}: cannot be read"
        raise ConvertError(f"{what} ({error.strerror or error})") from None
    except RuntimeError as error:  # MLX raises this where it cannot write or compute
        raise ConvertError(f"{out}: cannot be written ({error})") from None


def open_locked(path: Path) -> BinaryIO:
    """Open a file to read and write, and lock it until it is closed. It is created if it does not exist.

    The kernel releases the lock of a process that dies, so a lock that is held means a running process.

    Raises:
        BlockingIOError: another process has locked it so.
        OSError: it cannot be opened, or is not a regular file.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def check_disk(out: Path, unfinished: Path, needed: int) -> None:
    """Raise `ConvertError` where `needed` bytes do not fit the disk that `out` is written to."""
    free = shutil.disk_usage(unfinished).free
    if needed > free:
        raise ConvertError(
            f"{out}: not enough disk space: {format_bytes(needed)} to write, {format_bytes(free)} free;"
            " free some, or name a folder on another disk"
        )


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a checkpoint's file. Raises `CheckpointError`, naming the file."""
    try:
        value = json.loads(read_bytes(path, most=LARGEST_JSON).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        what = known_content(path) or f"not valid JSON ({error}); download the file again"
        raise CheckpointError(f"{path}: {what}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def json_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object that a text is; None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _write(path: Path, content: Content) -> None:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _keep_owner(path: Path, unfinished: Path) -> None:
    if path.exists():
        had, has = path.stat(), unfinished.stat()
        if (had.st_uid, had.st_gid) != (has.st_uid, has.st_gid):
            os.chown(unfinished, had.st_uid, had.st_gid)


def _mode(path: Path, private: bool) -> int:
    """The permissions of a file that exists, or those of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o7777
    if private:
        return 0o600
    os.umask(mask := os.umask(0))
    return 0o666 & ~mask


@contextlib.contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    while True:
        try:
            lock = open_locked(path)
        except BlockingIOError:
            raise ConvertError(f"{out}: another conversion is writing it; wait for it, or name another folder") from None
        if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            break
        lock.close()  # another process removed the file between our opening and locking it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()
