"""Fenced code blocks in an answer, as models write them.

Not all follow CommonMark: a fence may open after words on its line, close on the last line of code or before a remark, be
indented in a list, or never close.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .segments import parses

PYTHON = {"", "python", "python3", "py", "python2", "py3", "pycon", "code"}
OPENING = re.compile(r"^(?P<lead>(?:[^`~]|~(?!~~))*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<label>[^`]*)$")
CODE_ON_THE_FENCE = re.compile(r"(?:def|async|class|import|from)\s+\w|@\w")
ENDS_TRIED = 20  # of one block


@dataclass(frozen=True)
class Block:
    """A fenced block: its text, and whether its label allows Python."""

    text: str
    python: bool


def fenced_blocks(text: str) -> list[Block]:
    """The blocks of a text that are not blank, in order."""
    lines, blocks, at = text.split("\n"), list[Block](), 0
    while at < len(lines):
        opening = OPENING.match(lines[at])
        # Words before tildes are no fence: they may be a path or a strike-through.
        if not opening or (opening["fence"][0] == "~" and opening["lead"].strip(" \t>-*+.0123456789)")):
            at += 1
            continue
        block, at = _block(lines, at, opening)
        if block.text.strip():
            blocks.append(block)
    return blocks


def _block(lines: Sequence[str], start: int, opening: "re.Match[str]") -> tuple[Block, int]:
    """The block that opens in a line, and the line to go on from."""
    label, first = _label(opening["label"])
    quoted = opening["lead"].strip() == ">"
    indent = len(opening["lead"]) - len(opening["lead"].lstrip())
    body = [first] if first else []
    ends = list[tuple[str, int]]()
    for number in range(start + 1, len(lines)):
        line = re.sub(r"^\s*> ?", "", lines[number]) if quoted else _outdented(lines[number], indent)
        code, closes, next_line = _closing(line, opening["fence"], number)
        if closes:
            ends.append(("\n".join([*body, *([code] if code.strip() else [])]) + "\n", next_line))
            if len(ends) == ENDS_TRIED or label not in PYTHON:
                break
        body.append(line)
    else:
        ends.append(("\n".join(body), len(lines)))
    # Three backticks may stand in a docstring: the right end is the first at which the code is whole.
    text, after = next((end for end in ends if label in PYTHON and parses(end[0])), ends[0])
    return Block(text, label in PYTHON), after


def _label(text: str) -> tuple[str, str]:
    """A fence's label, and the code that follows it on the same line: ```` ```python title="x" ```` -> `python`."""
    text = text.strip()
    if CODE_ON_THE_FENCE.match(text):
        return "", text
    word, _, rest = text.partition(" ")
    label = re.sub(r"[{}.:,;]", "", word.lower().split(":")[0])
    return label, rest.strip() if CODE_ON_THE_FENCE.match(rest.strip()) else ""


def _outdented(line: str, indent: int) -> str:
    """A line without the indentation of its fence."""
    return line[min(indent, len(line) - len(line.lstrip())) :]


def _closing(line: str, fence: str, number: int) -> tuple[str, bool, int]:
    """The code in a line, whether the block may end in it, and the line to go on from if it does."""
    bare = line.strip()
    if bare.startswith(fence):
        label = _label(bare.lstrip(fence[0]))[0]
        opens = bool(label) and label in PYTHON and not bare.lstrip(fence[0]).strip().count(" ")
        return "", True, number if opens else number + 1
    if bare.endswith(fence) and bare.count(fence) == 1:
        return line.rstrip()[: -len(fence)], True, number + 1
    return line, False, number + 1
