"""The folder a conversion writes: beside OUT under a hidden name, locked, and renamed when it is complete."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mlx_diffucoder.errors import ConvertError

from .plan import readable

UNFINISHED = ".unfinished"


@contextlib.contextmanager
def written_beside(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when all went well, and is removed otherwise.

    What a killed conversion to `out` left behind is removed first. The kernel drops a dead process's
    lock, so a lock that is held is a conversion that is running.

    Raises:
        ConvertError: `out` exists, cannot be written, or is being written by another conversion.
    """
    with contextlib.ExitStack() as stack:
        try:
            out = out.expanduser()
            out.parent.mkdir(parents=True, exist_ok=True)
            str(out).encode()  # MLX takes no names that are not UTF-8
            unfinished = out.parent / f".{out.name}{UNFINISHED}"
            stack.enter_context(_locked(unfinished.with_name(unfinished.name + ".lock"), out))
            if os.path.lexists(out):
                raise ConvertError(f"{out}: exists already; name a new folder or remove it first")
            if os.path.lexists(unfinished):
                shutil.rmtree(unfinished)
            unfinished.mkdir()
        except (OSError, RuntimeError, ValueError) as error:
            raise ConvertError(f"{str(out)[:200]}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
        stack.callback(shutil.rmtree, unfinished, ignore_errors=True)  # gone already when it was renamed
        try:
            yield unfinished
            unfinished.rename(out)
        except OSError as error:
            file = Path(error.filename) if isinstance(error.filename, str) else out
            ours = file == out or unfinished in (file, *file.parents)
            what = f"{out}: cannot be written" if ours else f"{file}: cannot be read"
            raise ConvertError(f"{what} ({error.strerror or error})") from None
        except RuntimeError as error:  # MLX's way of saying that something could not be computed
            raise ConvertError(f"{out}: cannot be written ({error})") from None


def check_disk(out: Path, unfinished: Path, needed: int) -> None:
    """Raise `ConvertError` where `needed` bytes do not fit beside `out`."""
    free = shutil.disk_usage(unfinished).free
    if needed > free:
        raise ConvertError(
            f"{out}: not enough disk, {readable(needed)} to write and {readable(free)} free;"
            " make room, or name a folder on another disk"
        )


def name_of(unfinished: Path) -> str:
    """The name that the folder will have."""
    return unfinished.name.removeprefix(".").removesuffix(UNFINISHED)


@contextlib.contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConvertError(f"{out}: another conversion is writing it; wait for that, or name another folder") from None
        except OSError:
            os.close(lock)
            raise
        if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            break
        os.close(lock)  # its owner removed the file between our opening and locking it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)
