"""What the terminal is good for."""

import os
import sys


def is_live(wanted: bool = True) -> bool:
    """Whether a canvas can be shown: stdout and stderr are terminals whose cursor can be moved."""
    movable = os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    return wanted and movable and sys.stdout.isatty() and sys.stderr.isatty()
