"""A canvas as rows of a screen: how each token looks, where lines break, which rows are shown.

Pure: cells in, styled text out. `cli.live_view` decides what goes to the terminal, and when.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from rich.cells import get_character_cell_size
from rich.style import Style
from rich.syntax import ANSI_DARK, ANSISyntaxTheme

from .cells import Cell, Marks
from .highlight import Highlighter

Styled = list[tuple[str, Style]]
PLAIN = Style.null()

FRESH = Style(bold=True, color="green")
QUIET = Style(dim=True)
GUESSED = Style(dim=True, italic=True)
REMASKED = Style(bold=True, color="red")
TAB = 4


def highlighter() -> Highlighter[Style]:
    """Colours code in the terminal's own palette."""
    return Highlighter(ANSISyntaxTheme(ANSI_DARK).get_style_for_token)


def paint(cells: Sequence[Cell], highlight: Callable[[str], Styled]) -> Styled:
    """Cells with their styles, one or more pieces a cell: final text as code, fresh tokens bright."""
    final = next((index for index, cell in enumerate(cells) if not cell.known or cell.ends), len(cells))
    styled: Styled = []
    coloured = iter(highlight("".join(cell.text for cell in cells[:final])))
    left, style = "", PLAIN
    for cell in cells[:final]:
        wanted = len(cell.text)
        while wanted:
            if not left:
                left, style = next(coloured)
            taken, left = left[:wanted], left[wanted:]
            wanted -= len(taken)
            styled.append((taken, FRESH if cell.fresh else style))
    return styled + [(cell.text, _style(cell)) for cell in cells[final:]]


def _style(cell: Cell) -> Style:
    if cell.remasked:
        return REMASKED
    if cell.ends or not cell.known:
        return GUESSED if cell.guessed else QUIET
    return FRESH if cell.fresh else PLAIN


def wrap(styled: Styled, width: int) -> list[Styled]:
    """Rows no wider than `width` columns; a wide character that does not fit goes to the next row."""
    rows: list[Styled] = [[]]
    column = 0
    for text, style in styled:
        for part in filter(None, re.split("([\n\t])", text)):
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
    """Append text to a row; text of the same style extends the last piece."""
    if row and row[-1][1] is style:
        row[-1] = (row[-1][0] + text, style)
    else:
        row.append((text, style))


def _fitting(text: str, columns: int) -> tuple[int, int]:
    """The number of characters that fit into `columns`, and the columns they take."""
    if text.isascii():
        count = min(len(text), max(0, columns))
        return count, count
    ends = list(accumulate(map(get_character_cell_size, text), initial=0))
    count = bisect_right(ends, columns) - 1
    return count, ends[count]


def action(rows: Sequence[Styled]) -> tuple[int, int]:
    """The first row and one past the last where something has just happened, or else the first row with a mask."""
    happened = [place for place, row in enumerate(rows) if any(style is FRESH or style is REMASKED for _, style in row)]
    if happened:
        return happened[0], happened[-1] + 1
    masked = (any(style is QUIET or style is GUESSED for _, style in row) for row in rows)
    open_row = next((place for place, is_open in enumerate(masked) if is_open), len(rows) - 1)
    return open_row, open_row + 1


def page(top: int, height: int, count: int, busy: tuple[int, int]) -> int:
    """The first of the `height` rows to show of `count`.

    It moves only if no changed row is visible, or only in the last row.
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
