"""The `diffucode` command: one file for each command. Nothing slow is imported before a command runs."""

import os
import sys
import threading
from typing import NoReturn


def main() -> NoReturn:
    """The console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    try:
        from .terminal import open_streams

        open_streams()
        from .app import run

        code = run()
    except KeyboardInterrupt:
        code = 130
    from ..ranks import end

    end(code if code < 128 else 0)  # the others are stopped, too
    if code >= 128 and threading.active_count() > 1:  # stopped while the Hub's client waits for an answer, perhaps for ever
        os._exit(code)
    sys.exit(code)


__all__ = ["main"]
