"""Files and folders are written whole or not at all; JSON is read; sizes as text."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError, ConvertError

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


def write_whole(path: Path, text: str) -> None:
    """Put `text` into a file, which holds the old text or the new one at any time; a link stays one.

    A new file is its owner's alone; one that was there keeps its mode.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    import tempfile  # slow to import, and most commands write no file

    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(unfinished).chmod(mode)
        Path(unfinished).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(unfinished).unlink()
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a checkpoint's file. Raises `CheckpointError`, naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is {path.parent} a checkpoint folder?") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def readable(count: int) -> str:
    """A number of bytes, as people read it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def put_in_place(path: Path, write: Callable[[Path], Any], flag: str) -> None:
    """Written beside and renamed: a file that was there stays until the new one is complete.

    Raises:
        ConfigError: it cannot be written; the message names the flag and the file.
    """
    try:
        import tempfile

        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        unfinished = Path(name)
        try:
            write(unfinished)
            os.umask(mask := os.umask(0))
            unfinished.chmod(0o666 & ~mask)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{flag} {path}: cannot be written ({error.strerror or error})") from None
