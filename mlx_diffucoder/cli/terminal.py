"""What the terminal can show, and the numbers of a run printed on it."""

import os
import stat
import sys
from collections.abc import Mapping
from typing import TextIO


def is_live(wanted: bool = True) -> bool:
    """Whether a canvas can be shown: stdout and stderr are terminals whose cursor can be moved."""
    movable = os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    return wanted and movable and sys.stdout.isatty() and sys.stderr.isatty()


def is_file(stream: TextIO) -> bool:
    """Whether what is written to it is kept, and seen by nobody meanwhile."""
    return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)


def print_numbers(lines: Mapping[str, str]) -> None:
    """Print what `-v` asks for on stderr: a label and a value a line, such as `Stats.lines` gives."""
    for label, value in lines.items():
        print(f"{label:>27}  {value}", file=sys.stderr)
