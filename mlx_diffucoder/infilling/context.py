"""What a model is shown of the text around holes, and how what it writes goes back between the parts.

Of a long text only some tokens on each side of a hole are shown, in whole lines where the lines are not
longer than that. Tokens are made as if the text had never been cut: a blank right before a hole, and the
line ends right behind it, belong to tokens that reach into the hole, so they are shown as part of it and
taken off what comes back. The text outside is never made of tokens: it stays what it was.

Not covered: a hole in the middle of a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..decoding.hole_layout import unwrapped
from ..errors import PromptError

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

BOM = "\ufeff"
Part = str | int | None
"""Text, or between two texts a hole: None where its length is to be found, or its length in tokens."""


@dataclass(frozen=True)
class Excerpt:
    """The ids around each hole, one list more than there are holes.

    Attributes:
        ids: what is shown.
        leads: for each hole, the blank that its tokens start with.
        tails: for each hole, the line ends that its tokens stop with.
        ends: whether the text's own end is shown.
    """

    ids: list[list[int]]
    leads: list[str]
    tails: list[str]
    ends: bool

    def __len__(self) -> int:
        return sum(map(len, self.ids))

    def unwrap(self, hole: int, text: str) -> str:
        """What stands between the parts, of the text that a hole's tokens make."""
        return unwrapped(text, self.leads[hole], self.tails[hole])


def excerpt(tokenizer: "Tokenizer", parts: Sequence[str], budget: int) -> Excerpt:
    """Of the parts around holes, the `budget` tokens next to each hole on either side.

    Raises:
        PromptError: a part is not valid Unicode.
    """
    shown = [part.replace("\r\n", "\n") for part in parts]
    shown[0] = shown[0].removeprefix(BOM)
    *inner, last = shown[1:]
    after = _head(tokenizer, last, budget)
    shown = [_tail(tokenizer, shown[0], budget), *(_both_ends(tokenizer, text, budget) for text in inner), after]
    leads, tails = [], []
    for hole in range(len(parts) - 1):
        before, behind = shown[hole], shown[hole + 1]
        leads.append(before[-1:] if before[-1:] in (" ", "\t") else "")
        shown[hole] = before[: len(before) - len(leads[-1])]
        shown[hole + 1] = behind.lstrip("\n")
        tails.append("\n" * (len(behind) - len(shown[hole + 1])))
    return Excerpt([tokenizer.encode_plain(text) for text in shown], leads, tails, after == last)


def _both_ends(tokenizer: "Tokenizer", text: str, budget: int) -> str:
    """A text between two holes: all of it, or what is near either."""
    head, tail = _head(tokenizer, text, budget), _tail(tokenizer, text, budget)
    return text if len(head) + len(tail) >= len(text) else head + tail


def _head(tokenizer: "Tokenizer", text: str, budget: int) -> str:
    """The whole lines that a text starts with, as many as `budget` tokens allow."""
    taken = used = 0
    while taken < len(text):
        stop = text.find("\n", taken) + 1 or len(text)
        line = text[taken : min(stop, taken + _most(tokenizer, budget))]
        used += len(tokenizer.encode_plain(line))
        if used > budget or len(line) < stop - taken:
            return text[:taken] or _cut(tokenizer, line, budget, slice(None, -1))
        taken = stop
    return text


def _tail(tokenizer: "Tokenizer", text: str, budget: int) -> str:
    """The whole lines that a text stops with, as many as `budget` tokens allow."""
    start, used = len(text), 0
    while start > 0:
        before = text.rfind("\n", 0, start - 1) + 1
        line = text[max(before, start - _most(tokenizer, budget)) : start]
        used += len(tokenizer.encode_plain(line))
        if used > budget or len(line) < start - before:
            return text[start:] or _cut(tokenizer, line, budget, slice(1, None))
        start = before
    return text


def _most(tokenizer: "Tokenizer", budget: int) -> int:
    """Characters of a line that are looked at: the longest tokens are runs of as many blanks."""
    return 128 * budget


def _cut(tokenizer: "Tokenizer", line: str, budget: int, less: slice) -> str:
    """A line that is too long by itself: as much of one end of it."""
    while (count := len(tokenizer.encode_plain(line))) > budget:
        keep = max(0, min(len(line) - 1, len(line) * budget // count))
        line = line[:keep] if less.start is None else line[len(line) - keep :]
    return line


def check_text(parts: Sequence[str]) -> None:
    """Raises `PromptError` unless some of the parts hold something to go by."""
    if not any(part.strip() for part in parts):
        raise PromptError("instruction is needed where there is no text around the hole: say what to write", field="instruction")


def texts_and_holes(parts: Sequence[Part]) -> tuple[list[str], list[int | None]]:
    """The parts by kind; where a hole stands at an end, or next to another, there is an empty text."""
    if isinstance(parts, str | bytes):
        raise PromptError("the parts must be a list of texts with holes between them")
    texts, holes = [""], list[int | None]()
    for part in parts:
        if isinstance(part, str):
            texts[-1] += part
        elif part is None or (isinstance(part, int) and not isinstance(part, bool) and part >= 1):
            holes.append(part)
            texts.append("")
        else:
            raise PromptError(f"a part must be text, or a hole (None, or its length of 1 or more), not {part!r}")
    if not holes:
        raise PromptError("there is no hole among the parts: put None where text is to be filled in")
    return texts, holes
