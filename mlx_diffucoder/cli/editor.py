"""The user's editor on a file."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from ..errors import ChatError, DiffucoderError


def edit_file(path: Path) -> None:
    """Open `$VISUAL`, `$EDITOR` or vi on a file, and wait. Raises `DiffucoderError`."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()):
        raise DiffucoderError(f"{path}: an editor needs a terminal")
    try:
        code = subprocess.run([*shlex.split(editor), os.fspath(path)]).returncode
    except (OSError, ValueError) as error:  # ValueError: a quote that is not closed
        reason = error.strerror if isinstance(error, OSError) else error
        raise DiffucoderError(f"{editor}: cannot be started ({reason}); set EDITOR to one that can") from None
    if code:
        raise DiffucoderError(f"{editor}: ended with exit code {code}; {path} is as it left it")


def edit_text(text: str) -> str:
    """Let a text be edited; returns what it has become, without the last line's end. Raises `DiffucoderError`."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="diffucode-") as folder:
        path = Path(folder) / "message.md"
        path.write_text(text + "\n", encoding="utf-8")
        edit_file(path)
        try:
            return path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError):
            raise ChatError("what the editor left is no UTF-8 text; the message stays as it was") from None
