"""What the terminal is good for."""

import os
import stat
import sys
from typing import TextIO


def is_live(wanted: bool = True) -> bool:
    """Whether a canvas can be shown: stdout and stderr are terminals whose cursor can be moved."""
    movable = os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    return wanted and movable and sys.stdout.isatty() and sys.stderr.isatty()


def is_file(stream: TextIO) -> bool:
    """Whether what is written to it is kept, and seen by nobody meanwhile."""
    return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
