"""What each token of a canvas shows on a screen or in a picture. Pure: token ids in, texts out."""

import codecs
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..formatting import visible


@dataclass(frozen=True)
class Marks:
    """The characters that stand for a mask, for a remasked token, and for a token that has no text."""

    mask: str = "·"
    remasked: str = "×"
    silent: str = "∎"
    between: str = " · "
    newline: str = "↵"


ASCII = Marks(".", "x", "$", " - ", "/")


@dataclass(frozen=True)
class Cell:
    """What one token shows.

    Attributes:
        text: its text. A character whose bytes are spread over several tokens is in the last one's text.
        known: False for a mask.
        fresh: committed since the canvas was last shown.
        ends: the token has no text: an end token, padding.
        remasked: remasked since the canvas was last shown.
        guessed: a mask that shows a guess which was rejected.
    """

    text: str
    known: bool
    fresh: bool = False
    ends: bool = False
    remasked: bool = False
    guessed: bool = False


def cells_of(
    tokens: Sequence[int],
    piece: Callable[[int], bytes],
    mask_id: int,
    fresh: Collection[int] = (),
    remasked: Collection[int] = (),
    marks: Marks = Marks(),
    guesses: Mapping[int, int] = MappingProxyType({}),
) -> list[Cell]:
    """A cell for each token. A character whose bytes are not all there yet shows as U+FFFD.

    Args:
        tokens: ids, `[L]`.
        piece: the bytes that a token adds to a text; one character's bytes may be spread over several tokens.
        fresh, remasked: positions in `tokens`.
        guesses: position -> the rejected guess to show in place of a mask, on one line.
    """
    texts = _texts(tokens, piece, mask_id)
    cells = []
    for position, (token, text) in enumerate(zip(tokens, texts, strict=True)):
        is_fresh = position in fresh
        if token == mask_id:
            back = position in remasked
            guess = "" if back or position not in guesses else guess_text(piece(guesses[position]), marks)
            if guess:
                cells.append(Cell(guess, known=False, guessed=True))
                continue
            cells.append(Cell(marks.remasked if back else marks.mask, known=False, remasked=back))
        elif text is None:
            cells.append(Cell(marks.silent, known=True, fresh=is_fresh, ends=True))
        else:
            cells.append(Cell(visible(text), known=True, fresh=is_fresh))
    return cells


def guess_text(piece: bytes, marks: Marks = Marks()) -> str:
    """What a rejected guess shows: its text without the blanks before it, on one line."""
    text = piece.decode("utf-8", "replace")
    return visible("".join(text.split()) or text.replace("\n", marks.newline).strip())


def _texts(tokens: Sequence[int], piece: Callable[[int], bytes], mask_id: int) -> list[str | None]:
    """The text that each token completes; None for a mask, and for a token that adds nothing."""
    texts: list[str | None] = []
    reader = codecs.getincrementaldecoder("utf-8")("replace")  # holds the first bytes of a character

    def close() -> None:
        if left := reader.decode(b"", final=True):
            texts[-1] = (texts[-1] or "") + left

    for token in tokens:
        added = b"" if token == mask_id else piece(token)
        if added:
            texts.append(reader.decode(added))
        else:
            close()
            texts.append(None)
    close()
    return texts
