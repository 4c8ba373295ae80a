"""One key of a TOML file changed, every other line as it was: the standard library only reads TOML."""

import json
import re
from collections.abc import Sequence
from typing import Any


def with_value(text: str, table: Sequence[str], name: str, value: Any) -> str:
    """The text with `name` in a table set to a value; None takes it out.

    Only what a line can hold is found: `name = value` below `[table]`. Whoever calls this reads the result
    back and compares.
    """
    lines = [line + "\n" for line in text.removesuffix("\n").split("\n")] if text else []  # TOML knows no other ends
    start, end = _section(lines, table)
    new = [] if value is None else [f"{name} = {written(value)}\n"]
    at = next((i for i in range(start, end) if _is_key(lines[i], name)), None)
    if at is not None:
        lines[at : at + 1] = new
    elif new and table and start > len(lines):
        lines += ["\n"] * bool(lines) + [f"[{'.'.join(table)}]\n", *new]
    elif new:
        while end > start and not lines[end - 1].strip():
            end -= 1
        gap = ["\n"] if not table and end < len(lines) and lines[end].strip() else []
        lines[end:end] = [*new, *gap]
    return "".join(lines)


def _section(lines: list[str], table: Sequence[str]) -> tuple[int, int]:
    """The lines of a table, without its header; behind the last line where there is none."""
    headers = [i for i, line in enumerate(lines) if line.lstrip().startswith("[")]
    if not table:
        return 0, min(headers, default=len(lines))
    wanted = re.compile(r"\s*\[\s*" + r"\s*\.\s*".join(map(re.escape, table)) + r"\s*\]\s*(#.*)?")
    for i in headers:
        if wanted.fullmatch(lines[i].rstrip()):
            return i + 1, min((other for other in headers if other > i), default=len(lines))
    return len(lines) + 1, len(lines) + 1


def _is_key(line: str, name: str) -> bool:
    """Flags' names may be written with hyphens."""
    found = re.match(r"\s*([\"']?)([\w-]+)\1\s*=", line)
    return found is not None and found[2].replace("-", "_") == name


def written(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for this one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)
