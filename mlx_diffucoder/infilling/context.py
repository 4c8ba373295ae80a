"""The text around holes that a model sees, and how the text of a hole goes back between the parts.

Of a long text the model sees some tokens on each side of a hole, as whole lines if the lines are no longer than that.
The tokens are those of the uncut text: a blank right before a hole, and line ends right after it, belong to tokens that
reach into the hole. So they are left out of what is shown, and removed from what comes back. The text outside the holes
never goes through the tokenizer and back: it stays as it was.

Not covered: a hole in the middle of a word.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import PromptError

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

BOM = "\ufeff"
CHARACTERS = 128
"""The most characters of a token: long runs of blanks."""
Part = str | int | None
"""Text, or a hole between two texts: None if its length is not known, or its length in tokens."""


class Context(NamedTuple):
    """The tokens around the holes.

    Attributes:
        ids: what the model sees, one list more than there are holes.
        leads: for each hole, the blank that its first token starts with.
        tails: for each hole, the line ends that its last token ends with.
        shows_end: whether the end of the whole text is shown.
    """

    ids: list[list[int]]
    leads: list[str]
    tails: list[str]
    shows_end: bool


def context_of(tokenizer: "Tokenizer", parts: Sequence[str], budget: int) -> Context:
    """The part of a text that is shown: at most `budget` tokens on each side of a hole.

    Args:
        parts: the texts around the holes, one more than there are holes.

    Raises:
        PromptError: a part is not valid Unicode.
    """
    shown = [part.replace("\r\n", "\n") for part in parts]
    shown[0] = shown[0].removeprefix(BOM)
    *inner, last = shown[1:]
    start, end = _shown(tokenizer, shown[0], budget, from_start=False), _shown(tokenizer, last, budget, from_start=True)
    shown = [start, *(_both_ends(tokenizer, text, budget) for text in inner), end]
    leads, tails = [], []
    for hole in range(len(parts) - 1):
        before, after = shown[hole], shown[hole + 1]
        leads.append(before[-1:] if before[-1:] in (" ", "\t") else "")
        shown[hole] = before[: len(before) - len(leads[-1])]
        shown[hole + 1] = after.lstrip("\n")
        tails.append("\n" * (len(after) - len(shown[hole + 1])))
    return Context([tokenizer.encode_plain(text) for text in shown], leads, tails, end == last)


def _both_ends(tokenizer: "Tokenizer", text: str, budget: int) -> str:
    """A text between two holes: all of it, or its lines near either hole."""
    head, tail = (_shown(tokenizer, text, budget, from_start=from_start) for from_start in (True, False))
    return text if len(head) + len(tail) >= len(text) else head + tail


def _shown(tokenizer: "Tokenizer", text: str, budget: int, *, from_start: bool) -> str:
    """As many whole lines from the start or the end of a text as `budget` tokens allow."""
    taken = used = 0
    lines = io.StringIO(text).readlines()
    for line in lines if from_start else reversed(lines):
        part = _cut(line, CHARACTERS * budget, from_start)
        used += len(tokenizer.encode_plain(part))
        if used > budget or len(part) < len(line):
            return _cut(text, taken, from_start) or _shortened(tokenizer, part, budget, from_start)
        taken += len(line)
    return text


def _shortened(tokenizer: "Tokenizer", line: str, budget: int, from_start: bool) -> str:
    """The start or the end of a line that is longer than `budget` tokens."""
    while (count := len(tokenizer.encode_plain(line))) > budget:
        line = _cut(line, len(line) * budget // count, from_start)
    return line


def _cut(text: str, length: int, from_start: bool) -> str:
    """At most `length` characters from the start or the end of a text."""
    return text[:length] if from_start else text[max(0, len(text) - length) :]


def texts_and_lengths(parts: Sequence[Part]) -> tuple[list[str], list[int | None]]:
    """The texts around the holes, and the holes' lengths. Where two holes meet, or a hole is at an end, a text is empty.

    Raises:
        PromptError: a part is neither text nor a hole, or there is no hole.
    """
    if isinstance(parts, str | bytes) or not isinstance(parts, Sequence):
        raise PromptError("the parts must be a list of texts with holes between them")
    texts, lengths = [""], list[int | None]()
    for part in parts:
        if isinstance(part, str):
            texts[-1] += part
        elif part is None or (isinstance(part, int) and not isinstance(part, bool) and part >= 1):
            lengths.append(part)
            texts.append("")
        else:
            raise PromptError(f"a part must be text, or a hole (None, or its length of 1 or more), not {part!r}")
    if not lengths:
        raise PromptError("there is no hole among the parts: put None where text is to be filled in")
    return texts, lengths
