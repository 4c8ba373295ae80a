"""The final text of a trace on a grid of columns and rows: where each token stands, and in which colour."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pygments.token import Comment, Keyword, Name, Number, Operator, String
from rich.cells import get_character_cell_size

from .cells import Cell
from .highlight import Highlighter

TAB = 4
# CSS class -> the Pygments token types that it colours; the first match wins.
COLOURS: dict[str, tuple[Any, ...]] = {
    "c": (Comment, String.Doc),
    "s": (String,),
    "n": (Number, Keyword.Constant),
    "k": (Keyword, Operator.Word),
    "f": (Name.Function, Name.Class, Name.Decorator),
    "b": (Name.Builtin,),
}


def colour_of(kind: Any) -> str:
    """The CSS class of a Pygments token type; empty for plain text."""
    return next((name for name, kinds in COLOURS.items() if any(kind in one for one in kinds)), "")


@dataclass(frozen=True)
class Glyph:
    """One character, with the combining characters after it, at a column and row of the grid."""

    text: str
    column: int
    row: int
    colour: str = ""


class Slot(NamedTuple):
    """The place of one token on the grid.

    Attributes:
        glyphs: its visible characters.
        spans: `(column, row, columns)` of each row that it covers, at least one: the first is where its first visible
            character is, or where it starts if it has none.
    """

    glyphs: list[Glyph]
    spans: list[tuple[int, int, int]]


@dataclass
class Grid:
    """Lays out texts one after another, in lines of at most `columns`."""

    columns: int
    column: int = 0
    row: int = 0

    def place(self, text: str, colours: Sequence[str]) -> Slot:
        """Put a token's text at the cursor and move the cursor after it. A token that does not fit starts a new row.

        Args:
            colours: the CSS class of each character, as many as `text` has.
        """
        if self.column and self.column + _width(text.split("\n", 1)[0].rstrip()) > self.columns:
            self._next_row()
        start, glyphs = (self.column, self.row), list[Glyph]()
        for character, colour in zip(text, colours, strict=True):
            width = TAB - self.column % TAB if character == "\t" else get_character_cell_size(character)
            if character == "\n":
                self._next_row()
            elif not width and glyphs:
                glyphs[-1] = replace(glyphs[-1], text=glyphs[-1].text + character)
            else:
                if self.column and self.column + width > self.columns:
                    self._next_row()
                if not character.isspace():
                    glyphs.append(Glyph(character, self.column, self.row, colour))
                self.column += width
        return Slot(glyphs, list(_spans(glyphs)) or [(*start, max(1, self.column - start[0]))])

    def _next_row(self) -> None:
        self.column, self.row = 0, self.row + 1


def slots_of(cells: Sequence[Cell], grid: Grid) -> list[Slot]:
    """A slot for each cell, coloured as code."""
    text = "".join(cell.text for cell in cells)
    colours = [colour for piece, colour in Highlighter(colour_of)(text) for _ in piece]
    slots, at = [], 0
    for cell in cells:
        stop = at + len(cell.text)
        plain = cell.ends or not cell.known
        slots.append(grid.place(cell.text, ["q"] * len(cell.text) if plain else colours[at:stop]))
        at = stop
    return slots


def _spans(glyphs: Sequence[Glyph]) -> Iterator[tuple[int, int, int]]:
    for row in dict.fromkeys(glyph.row for glyph in glyphs):
        those = [glyph for glyph in glyphs if glyph.row == row]
        yield those[0].column, row, those[-1].column + _width(those[-1].text) - those[0].column


def _width(text: str) -> int:
    return sum(get_character_cell_size(character) for character in text)
