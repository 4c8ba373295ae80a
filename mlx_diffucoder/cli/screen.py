"""A canvas as rows of a screen: what each token looks like, where lines break, which rows are shown.

Pure: tokens in, styled text out. What is put on a terminal, and when, is `live`'s.
"""

import codecs
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rich.cells import get_character_cell_size
from rich.style import Style

from .highlight import PLAIN, Styled

FRESH = Style(bold=True, color="green")
QUIET = Style(dim=True)
TAKEN_BACK = Style(bold=True, color="red")
TAB = 4


@dataclass(frozen=True)
class Marks:
    """What stands for a mask, for a token that was taken back, and for one that has no text."""

    mask: str = "·"
    taken_back: str = "×"
    silent: str = "∎"
    between: str = " · "


ASCII = Marks(".", "x", "$", " - ")

# What would move the cursor, or turn the direction of writing, is shown as the control's picture or as unknown.
_HARMLESS: dict[int, str] = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_HARMLESS |= {ord("\r"): "", 127: "\u2421"}
_HARMLESS |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029], "\ufffd")


@dataclass(frozen=True)
class Cell:
    """One token's text, or that of a few that make a character together.

    Attributes:
        known: False where there is a mask.
        fresh: committed since the canvas was last shown.
        ends: no text: an end token, padding.
    """

    text: str
    known: bool
    fresh: bool = False
    ends: bool = False
    taken_back: bool = False


def spell(
    tokens: Sequence[int],
    piece: Callable[[int], bytes],
    mask_id: int,
    fresh: Collection[int] = (),
    taken_back: Collection[int] = (),
    marks: Marks = Marks(),
) -> list[Cell]:
    """What each token shows. A character whose bytes are not all there yet is shown as unknown.

    Args:
        piece: what a token adds to a text; bytes of one character may be spread over tokens.
        fresh, taken_back: places in `tokens`.
    """
    cells: list[Cell] = []
    reader = codecs.getincrementaldecoder("utf-8")("replace")  # holds the start of a character that the next token may end

    def close() -> None:
        if left := reader.decode(b"", final=True):
            cells.append(Cell(left, known=True))

    for place, token in enumerate(tokens):
        if token == mask_id:
            close()
            back = place in taken_back
            cells.append(Cell(marks.taken_back if back else marks.mask, known=False, taken_back=back))
        elif added := piece(token):
            text = reader.decode(added).translate(_HARMLESS)
            cells.append(Cell(text, known=True, fresh=place in fresh))
        else:
            close()
            cells.append(Cell(marks.silent, known=True, fresh=place in fresh, ends=True))
    close()
    return cells


def paint(cells: Sequence[Cell], highlight: Callable[[str], Styled]) -> Styled:
    """Cells with their styles, one piece or more a cell: what is settled as code, what is fresh bright."""
    settled = next((place for place, cell in enumerate(cells) if not cell.known or cell.ends), len(cells))
    styled: Styled = []
    coloured = iter(highlight("".join(cell.text for cell in cells[:settled])))
    left, style = "", PLAIN
    for cell in cells[:settled]:
        wanted = len(cell.text)
        while wanted:
            if not left:
                left, style = next(coloured)
            taken, left = left[:wanted], left[wanted:]
            wanted -= len(taken)
            styled.append((taken, FRESH if cell.fresh else style))
    return styled + [(cell.text, _style(cell)) for cell in cells[settled:]]


def _style(cell: Cell) -> Style:
    if cell.taken_back:
        return TAKEN_BACK
    if cell.ends or not cell.known:
        return QUIET
    return FRESH if cell.fresh else PLAIN


def wrap(styled: Styled, width: int) -> list[Styled]:
    """Rows no wider than `width` columns; a wide character that does not fit goes to the next row."""
    rows: list[Styled] = [[]]
    column = 0
    for text, style in styled:
        for part in _parts(text):
            if part == "\n":
                rows.append([])
                column = 0
                continue
            rest = " " * (TAB - column % TAB) if part == "\t" else part
            while rest:
                count, taken = _fitting(rest, width - column)
                if not count and column:
                    rows.append([])
                    column = 0
                    continue
                count = max(count, 1)  # a character wider than the screen
                _add(rows[-1], rest[:count], style)
                rest, column = rest[count:], column + taken
    return rows


def _add(row: Styled, text: str, style: Style) -> None:
    """One piece for what looks the same."""
    if row and row[-1][1] is style:
        row[-1] = (row[-1][0] + text, style)
    else:
        row.append((text, style))


def _parts(text: str) -> list[str]:
    """A text cut at its line ends and tabs, which stay as parts."""
    if "\n" not in text and "\t" not in text:
        return [text]
    parts = [""]
    for mark in text:
        if mark in "\n\t":
            parts += [mark, ""]
        else:
            parts[-1] += mark
    return [part for part in parts if part]


def _fitting(text: str, room: int) -> tuple[int, int]:
    """How many characters of a line fit into so many columns, and how many columns they take."""
    if text.isascii():
        count = min(len(text), max(0, room))
        return count, count
    taken = 0
    for count, mark in enumerate(text):
        size = get_character_cell_size(mark)
        if taken + size > room:
            return count, taken
        taken += size
    return len(text), taken


def action(rows: Sequence[Styled]) -> tuple[int, int]:
    """The first row and one past the last where something has just happened, or else the first row with a mask."""
    happened = [place for place, row in enumerate(rows) if any(style is FRESH or style is TAKEN_BACK for _, style in row)]
    if happened:
        return happened[0], happened[-1] + 1
    open_row = next((place for place, row in enumerate(rows) if any(style is QUIET for _, style in row)), len(rows) - 1)
    return open_row, open_row + 1


def page(top: int, height: int, count: int, busy: tuple[int, int]) -> int:
    """The first of the `height` rows to show of `count`.

    It moves only where nothing that happens is in sight, or all of it in the last row.
    """
    first, end = busy
    if not (first < top + height - 1 and end > top):
        top = first - height // 3
    return max(0, min(top, count - height))


def status(parts: Sequence[str], width: int, between: str = Marks.between) -> str:
    """As many of the parts as fit on one row."""
    line = ""
    for part in parts:
        longer = f"{line}{between}{part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line
