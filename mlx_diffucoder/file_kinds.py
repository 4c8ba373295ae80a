"""What a file is, where it is not what its name says: a pipe, a device, a Git LFS pointer, a web page, a pickle."""

import os
import re
import stat
from pathlib import Path

from .errors import CheckpointError, DiffucoderError
from .formatting import format_bytes

LARGEST = 2**30
"""Bytes of a file that is read whole, at most: far beyond any file of tasks, texts or steps."""
LARGEST_JSON = 2**24
"""Bytes of a JSON file of a checkpoint, at most: an index of a thousand billion weights has a fifth of it."""
HARMLESS = re.compile(r"/dev/null|/dev/std(in|out|err)|/(dev|proc/self)/fd/[0-9]+")
"""The empty device, and the pipes that a shell makes, as for `<(...)`."""

TO_SAFETENSORS = (
    """python -c "import glob, torch, safetensors.torch as s; s.save_file({k: v.clone() for f in glob.glob('*.bin')"""
    """ for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, 'model.safetensors')\""""
)
"""A command that turns PyTorch's files of a folder into safetensors. PyTorch runs no code of a file that it reads like this."""

_TYPES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PICKLE = "a PyTorch pickle under another name"
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"),
    (b"<", "a web page, not the file itself; download it again, from an address with /resolve/ in place of /blob/"),
    (b"PK\x03\x04", f"{_PICKLE}, not safetensors; download safetensors"),
    (b"\x80\x02", f"{_PICKLE}, not safetensors; download safetensors"),
    (b"GGUF", "a GGUF file, which this program does not read; take the original checkpoint"),
)
_AS_LINES = "save its rows as JSON lines, as to_json of Hugging Face's datasets does"
_NOT_ROWS = (
    *_BEGINNINGS[:2],
    (b"PAR1", f"a Parquet file; {_AS_LINES}"),
    (b"ARROW1", f"an Arrow file; {_AS_LINES}"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\xff\xfe", "is UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16 text; save it as UTF-8"),
)


def read_bytes(
    path: Path, error: type[DiffucoderError] = CheckpointError, most: int = LARGEST, missing: bytes | None = None
) -> bytes:
    """All bytes of a file that a user names, or that a checkpoint has.

    Args:
        error: the class of the error to raise.
        most: the largest size, in bytes.
        missing: the content of a file that does not exist; None if that is an error.

    Raises:
        DiffucoderError: of the given class. The file cannot be read, is larger, or is a device or a pipe.
    """
    check_regular(path, error, most)
    try:
        with path.open("rb") as opened:
            # As many bytes as are asked for are reserved; a pipe has no size.
            return opened.read(min(most, os.fstat(opened.fileno()).st_size or most))
    except OSError as reason:
        if missing is not None and isinstance(reason, FileNotFoundError):
            return missing
        raise error(f"{path}: cannot be read ({reason.strerror or reason})") from None


def check_regular(path: Path, error: type[DiffucoderError] = CheckpointError, most: int | None = None) -> None:
    """Raise `error` for what is no regular file: a pipe may never answer, and a device may never end.

    A file that does not exist passes: whoever opens it says so.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(found.st_mode) and not HARMLESS.fullmatch(str(path)):
        what = _TYPES.get(stat.S_IFMT(found.st_mode), "no file")
        raise error(f"{path}: cannot be read: it is {what}, not a regular file")
    if most is not None and found.st_size > most:
        raise error(f"{path}: has {format_bytes(found.st_size)}, and such a file may have at most {format_bytes(most)}")


def known_content(path: Path) -> str | None:
    """What a file is by its first bytes, and what to do, if it is one of the things that people find in its place."""
    try:
        with path.open("rb") as opened:
            begin = opened.read(256).lstrip(b"\xef\xbb\xbf \r\n\t")
    except OSError:
        return None
    return next((what for mark, what in _BEGINNINGS if begin.startswith(mark)), None)


def known_rows(data: bytes) -> str | None:
    """What data is and what to do, if it is one of the things that people give in place of rows of JSON."""
    return next((what for mark, what in _NOT_ROWS if data.startswith(mark)), None)
