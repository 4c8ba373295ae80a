"""Chat templates, rendered in a process of their own, with limits.

A template is a program that came with a checkpoint. Jinja's sandbox keeps it from files and from Python's internals, but
not from running forever or filling the memory. One process renders all chats and ends with this one.
"""

import atexit
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .template_process import SECONDS

_lock = threading.Lock()
_process: "subprocess.Popen[str] | None" = None


def render(template: str, chats: Sequence[Sequence[Mapping[str, str]]], tokens: Mapping[str, str]) -> list[str]:
    """The texts of chats up to the start of the answer.

    Args:
        template: Jinja source.
        chats: messages, each with a `role` and a `content`.
        tokens: special tokens by the names that the template has for them, such as `bos_token`.

    Raises:
        CheckpointError: the template fails for a chat, or takes more time, memory or text than `template_process` allows.
    """
    global _process
    with _lock:
        if _process is None:
            worker = Path(__file__).with_name("template_process.py")
            _process = subprocess.Popen(
                [sys.executable, "-I", "-S", worker, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
                start_new_session=True,  # Ctrl-C is for this process
            )
        try:
            texts, error = _ask(_process, [template, chats, tokens])
        except BaseException:  # its answer would be taken for that of the next chats
            _end()
            raise
    if error:
        raise CheckpointError(f"the checkpoint's chat template fails ({error}): use --raw to leave it out")
    return texts


def _ask(process: "subprocess.Popen[str]", request: list[Any]) -> tuple[list[str], str]:
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    if reply := process.stdout.readline():  # type: ignore[union-attr]
        texts, error = json.loads(reply)
        return texts, error
    late = process.wait() == -signal.SIGPROF
    _end()
    return [], f"it takes more than {SECONDS:g} s" if late else "its process ended"


@atexit.register
def _end() -> None:
    global _process
    if _process is not None:
        _process.kill()
        _process.communicate()
        _process = None
