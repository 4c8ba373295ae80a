"""Last lines of a hole that repeat the text after it."""

from types import SimpleNamespace

import pytest

from mlx_diffucoder.infilling.context import context_of
from mlx_diffucoder.infilling.repetition import trimmed, without_repetition
from mlx_diffucoder.infilling.task import Attempt


@pytest.mark.parametrize(
    ("text", "suffix", "left"),
    [
        ("total += x\n    return total\n", "    return total\n", "total += x\n"),
        ("total += x\n", "    return total\n", "total += x\n"),
        ("x += 1\n}", "\n}\n", "x += 1"),
        ("x\n\n", "\n\ny\n", "x\n\n"),
        ("", "y", ""),
    ],
)
def test_last_lines_that_the_suffix_repeats_are_left_out(text, suffix, left):
    assert without_repetition(text, suffix) == left


@pytest.mark.parametrize(
    ("length", "scores", "left"),
    [(None, (-1.0, -0.5), " x += 1\n"), (None, (-0.5, -1.0), None), (9, (-1.0, -0.5), None)],
    ids=["less probable", "more probable", "of a given length"],
)
def test_they_go_where_the_shorter_text_is_more_probable(length, scores, left, pocket):
    tokenizer = pocket[1]
    parts = ["def f(x):\n   ", "    return x\nprint(f(1))\n"]
    before = Attempt([tokenizer.encode_plain(" x += 1\n    return x\n")], [True], 1)
    task = SimpleNamespace(
        tokenizer=tokenizer, lengths=[length], context=context_of(tokenizer, parts, 99), scores=lambda attempts: [[scores[1]]]
    )
    after, score = trimmed(task, before, scores[0])
    assert tokenizer.decode(after.ids[0]) == (left or " x += 1\n    return x\n")
    assert score == (scores[1] if left else scores[0])
