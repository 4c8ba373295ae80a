"""The system's sandbox for code that a model wrote: bubblewrap on Linux, sandbox-exec on macOS.

Inside, there is no network, no other process to see, an empty environment, and of the disk only the interpreter with its
packages and the system's libraries, read-only. What is written goes to a folder in memory (Linux) or to a temporary one.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

RUNNER = Path(__file__).parent / "runner"
DISK = 64 << 20
"""Bytes that a program may write in all. Only bubblewrap limits it."""
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/System", "/Library"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
WORK = "/answer"


def sandbox_name() -> str:
    """The name of the sandbox that this system can have."""
    return "sandbox-exec" if sys.platform == "darwin" else "bubblewrap"


def sandbox_program() -> str:
    """The program that makes it."""
    return "/usr/bin/sandbox-exec" if sys.platform == "darwin" else shutil.which("bwrap") or "bwrap"


def confined(command: Sequence[str], folder: str, sandbox: str) -> list[str]:
    """The command in a sandbox, by its name, or "off".

    Args:
        folder: where it may write; bubblewrap has its own in memory.
    """
    if sandbox == "bubblewrap":
        return bubblewrap(command)
    return [sandbox_program(), "-p", profile(folder), *command] if sandbox == "sandbox-exec" else list(command)


@cache
def readable() -> tuple[str, ...]:
    """Files and folders that a program needs to read: the system's, and of the interpreter its own parts only.

    An environment often stands in the home folder, or is the home folder's `.local`, so no prefix is shown as a whole.
    """
    python = Path(sys.executable)
    links = [python]
    while links[-1].is_symlink():
        links.append(links[-1].parent / links[-1].readlink())
    found = {*map(Path, SYSTEM), RUNNER, *(link.parent for link in links)}
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}:
        found |= {Path(prefix) / name for name in ("bin", "lib", "lib32", "lib64", "Python", "Resources", "pyvenv.cfg")}
    found |= {path.resolve() for path in found}
    # Unlike `Path.exists`, this is False for what another user keeps to himself.
    return tuple(sorted(str(path) for path in found if os.path.exists(path)))  # noqa: PTH110


def bubblewrap(command: Sequence[str]) -> list[str]:
    """The command in a sandbox of bubblewrap."""
    options = ["--unshare-all", "--die-with-parent", "--uid", "65534", "--gid", "65534", "--hostname", "answer"]
    for path in readable():
        options += ["--ro-bind", path, path]
    for path in DEVICES:
        options += ["--dev-bind", path, path]
    options += ["--size", str(DISK), "--tmpfs", WORK, "--remount-ro", "/", "--chdir", WORK]
    return [sandbox_program(), *options, "--", *command]


def profile(folder: str) -> str:
    """A profile of sandbox-exec: the last rule that matches decides.

    Args:
        folder: where the program may read and write.
    """
    home, temporary, own = (os.path.realpath(path) for path in (Path.home(), tempfile.gettempdir(), folder))
    needed = [own, *readable()]
    parents = sorted({str(parent) for path in needed for parent in Path(path).parents})
    private = [home, temporary, "/Users", "/Volumes", "/private/tmp", "/private/var/folders"]
    return "\n".join(
        [
            "(version 1)",
            "(allow default)",
            "(deny network*)",
            "(deny mach-lookup)",
            "(deny appleevent-send)",
            "(deny process-info* (target others))",
            "(deny signal (target others))",
            "(deny file-write*)",
            f'(allow file-write* (subpath {_quoted(own)}) (literal "/dev/null"))',
            f"(deny file-read* {_paths('subpath', private)})",
            f"(allow file-read-metadata {_paths('literal', parents)})",
            f"(allow file-read* {_paths('subpath', needed)})",
        ]
    )


def _paths(kind: str, paths: Sequence[str]) -> str:
    return " ".join(f"({kind} {_quoted(path)})" for path in paths)


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
