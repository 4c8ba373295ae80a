"""Rows of a screen, made of tokens: pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlx_diffucoder.trace.cells import Marks, cells_of
from mlx_diffucoder.trace.screen import (
    FRESH,
    GUESSED,
    PLAIN,
    QUIET,
    REMASKED,
    TAB,
    action,
    highlighter,
    page,
    paint,
    status,
    wrap,
)

MASK, END = 1, 2
PIECES = {END: b"", 10: b"def", 11: b" f", 12: b"()", 13: "漢".encode(), 14: b"\xf0\x9f", 15: b"\x91\x8d", 16: b"\n", 17: b"\xff"}


def spelled(*tokens, **options):
    return [cell.text for cell in cells_of(tokens, PIECES.__getitem__, MASK, **options)]


def plain(text):
    return [(text, PLAIN)] if text else []


def text_of(styled):
    return "".join(text for text, _ in styled)


def test_masks_are_dots_and_what_has_no_text_is_a_mark():
    assert spelled(10, 11, MASK, 12, END) == ["def", " f", "·", "()", "∎"]
    assert spelled(MASK, END, marks=Marks(".", "x", "$")) == [".", "$"]


def test_a_remasked_token_is_marked():
    assert spelled(10, MASK, MASK, remasked={2}) == ["def", "·", "×"]


def test_a_rejected_guess_stands_in_place_of_a_mask_on_one_line():
    guesses = {0: 10, 1: 11, 2: 16, 3: END, 4: 12}
    assert spelled(10, MASK, MASK, MASK, MASK, remasked={4}, guesses=guesses) == ["def", "f", "↵", "·", "×"]
    cells = cells_of([10, MASK, MASK], PIECES.__getitem__, MASK, guesses={2: 11})
    assert paint(cells, highlighter())[-2:] == [("·", QUIET), ("f", GUESSED)]
    assert action([plain("a"), paint(cells[2:], highlighter())]) == (1, 2)
    hostile = cells_of([1], lambda token: b"\x1b[31m \n\a", 1, guesses={0: 2})
    assert [cell.text for cell in hostile] == ["␛[31m␇"]


def test_the_bytes_of_a_character_may_be_spread_over_tokens():
    assert "".join(spelled(10, 14, 15, 13)) == "def👍漢"
    assert spelled(14, MASK, 15) == ["\ufffd", "·", "\ufffd\ufffd"]
    assert spelled(10, 14) == ["def", "\ufffd"]
    assert spelled(17, 10) == ["\ufffd", "def"]


@given(st.lists(st.sampled_from(list(PIECES))))
def test_known_tokens_show_what_they_decode_to(tokens):
    parts = b"".join(PIECES[token] or b"|" for token in tokens)
    assert "".join(spelled(*tokens)) == parts.decode(errors="replace").replace("|", "∎")


def test_control_characters_reach_no_terminal():
    shown = cells_of([1], lambda token: "\x1b[31m\a\r\n\x9b\u202e".encode(), 0)[0].text
    assert shown == "␛[31m␇\n\ufffd\ufffd"


def test_settled_text_is_coloured_fresh_is_bright_and_the_rest_is_plain():
    cells = cells_of([10, 11, 12, MASK, 10, 12, END], PIECES.__getitem__, MASK, fresh={1, 4})
    painted = paint(cells, highlighter())
    assert text_of(painted) == "def f()·def()∎"
    assert painted[0][1] not in (PLAIN, FRESH)  # a keyword
    assert [text for text, style in painted if style is FRESH] == [" ", "f", "def"]
    assert painted[-2:] == [("()", PLAIN), ("∎", QUIET)]


def test_a_remasked_token_is_painted_so():
    cells = cells_of([10, MASK], PIECES.__getitem__, MASK, remasked={1})
    assert paint(cells, highlighter())[-1] == ("×", REMASKED)


@given(st.text("ab漢👍é\n\t ", max_size=60), st.integers(2, 20))
def test_no_row_is_wider_than_the_screen_and_nothing_is_lost(text, width):
    rows = wrap(plain(text), width)
    assert all(cell_len(text_of(row)) <= max(width, TAB) for row in rows)
    assert "".join(map(text_of, rows)).replace(" ", "") == text.replace("\n", "").replace("\t", "").replace(" ", "")
    # A row is only broken where what follows does not fit.
    assert len(rows) >= text.count("\n") + 1


def test_a_wide_character_that_does_not_fit_goes_to_the_next_row():
    assert [text_of(row) for row in wrap(plain("abc漢字"), 4)] == ["abc", "漢字"]
    assert [text_of(row) for row in wrap(plain("漢"), 1)] == ["漢"]  # and what never fits is there all the same


def test_tabs_go_to_their_stops():
    assert [text_of(row) for row in wrap(plain("a\tb\n\tc"), 20)] == ["a   b", "    c"]


def test_the_page_moves_only_where_nothing_that_happens_is_in_sight():
    assert page(0, 10, 6, (5, 6)) == 0
    assert page(0, 10, 40, (3, 4)) == 0
    assert page(0, 10, 40, (8, 30)) == 0
    assert page(0, 10, 40, (8, 9)) == 0
    assert page(0, 10, 40, (9, 10)) == 6  # in the last row nothing is seen of what comes next
    assert page(0, 10, 40, (10, 11)) == 7
    assert page(7, 10, 40, (2, 3)) == 0
    assert page(0, 10, 40, (39, 40)) == 30
    assert page(30, 10, 12, (11, 12)) == 2  # the screen has become higher or the text shorter


def test_the_action_is_what_is_fresh_or_else_the_first_mask():
    rows = [[("a", PLAIN)], [("b", PLAIN), ("·", QUIET)], [("c", FRESH)], [("·", QUIET)], [("×", REMASKED)]]
    assert action(rows) == (2, 5)
    assert action(rows[:2]) == (1, 2)
    assert action(rows[:1]) == (0, 1)


def test_the_status_takes_what_fits():
    assert status(["12 forwards", "3 tokens"], 40) == "12 forwards · 3 tokens"
    assert status(["12 forwards", "3 tokens"], 15) == "12 forwards"
    assert status(["12 forwards"], 3) == ""


SAMPLES = {
    "code": 'import os\n\ndef f(x):\n    """Not\n    def over\n    yet."""\n    # done\n    return f"{x!r} 漢"\n\nclass A:\n',
    "fenced": "Here is the code:\n\n```python\ndef f():\n    '''a\n    b'''\n    return 1\n```\nSo.\n```js\nlet a = 1\n```\n",
    "unknown": "Text first.\n```nosuchlanguage\nx = 1\n```\n",
    "prose": "I cannot do that for you if you are not in it.\nReally\x0bnot.",
}


@pytest.mark.parametrize("text", SAMPLES.values(), ids=SAMPLES)
def test_a_growing_text_is_coloured_as_the_whole_one(text):
    growing = highlighter()
    for end in range(1, len(text) + 1):
        found = growing(text[:end])
        assert text_of(found) == text[:end]
    whole = highlighter()(text)

    def each(styled):
        return [(mark, style) for piece, style in styled for mark in piece if not mark.isspace()]

    assert each(found) == each(whole)


def test_a_text_that_changes_is_read_again():
    highlight = highlighter()
    highlight("def f():\n    return 1\n")
    assert text_of(highlight("def g():\n    pass\n")) == "def g():\n    pass\n"
    assert text_of(highlight("de")) == "de"


def test_code_is_coloured_and_prose_is_not():
    def coloured(text):
        return {piece for piece, style in highlighter()(text) if style.color is not None and piece.strip()}

    assert "def" in coloured("def f():\n    return 1\n")
    assert coloured("Return for me if you can.\n") == set()
    assert coloured("Here:\n```python\nreturn 1\n```\nand if not\n") == {"return", "1"}
