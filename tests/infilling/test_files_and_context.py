"""The text around holes that is shown, files that are cut at their holes, and an editor's requests."""

import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.infilling.context import context_of
from mlx_diffucoder.infilling.editor import read_request
from mlx_diffucoder.infilling.file import cut, diff_of
from mlx_diffucoder.infilling.lengths import search
from mlx_diffucoder.infilling.task import Attempt, InfillTask


def shown(tokenizer, parts, budget):
    return [tokenizer.decode(ids) for ids in context_of(tokenizer, parts, budget).ids]


def test_a_text_between_two_holes_that_fits_is_shown_once_and_in_order(dream_a):
    between = "b = 1\nc = 2\n"
    assert shown(dream_a[1], ["a", between, "d"], 64) == ["a", between, "d"]


def test_of_a_long_text_between_two_holes_both_ends_are_shown(dream_a):
    between = "".join(f"b{number} = 1\n" for number in range(50))
    _, text, _ = shown(dream_a[1], ["a", between, "d"], 20)
    assert text.startswith("b0 = 1\n")
    assert text.endswith("b49 = 1\n")


def test_a_byte_order_mark_is_not_shown(dream_a):
    assert shown(dream_a[1], ["\ufeffa = 1\n", "\n"], 64)[0] == "a = 1\n"


def test_lines_that_take_exactly_the_budget_are_shown_whole(dream_a):
    lines = "a = 1\nb = 2\n"
    budget = sum(len(dream_a[1].encode_plain(line)) for line in lines.splitlines(keepends=True))
    assert shown(dream_a[1], [f"c = 3\n{lines}", "\n"], budget)[0] == lines


def test_a_marker_without_a_bracket_ends_as_it_is_written_and_takes_a_length():
    assert cut("a.py", b"HOL:3E HOLE:2 HOLE", "HOLE", None, None).lengths == [2, None]
    assert cut("a.py", b"<FILL:3> <FILL>", "<FILL>", None, None).lengths == [3, None]


def test_a_diff_of_several_lines_is_as_diff_prints_it():
    source = cut("a.py", b"a\n<FILL>\nc", "<FILL>", None, None)
    said = "--- a.py\n+++ a.py\n@@ -1,3 +1,3 @@\n a\n-<FILL>\n+b\n c\n\\ No newline at end of file\n"
    assert diff_of(source, b"a\nb\nc") == said


def test_json_without_a_key_of_a_request_is_a_file_like_any_other():
    assert read_request(b'{"a": 1}') is None


@pytest.mark.parametrize(("instruction", "raw", "chat"), [(None, False, False), ("hi", True, False), ("hi", False, True)])
def test_only_a_chat_ends_its_text_with_the_token_that_ends_a_chat(dream_a, instruction, raw, chat):
    task = InfillTask(*dream_a, ["a = ", "\n"], [2], GenerationConfig(raw=raw), instruction, 64, None)
    assert task.texts[-1][-1] == dream_a[1].end_id(chat=chat)
    assert dream_a[1].end_id(chat=True) != dream_a[1].end_id(chat=False)


@pytest.mark.parametrize("holes", [1, 3])
def test_every_hole_has_a_score_of_what_follows_it(dream_a, holes):
    task = InfillTask(*dream_a, ["a = "] + ["\nb = 1\n"] * holes, [1] * holes, GenerationConfig(), None, 64, None)
    (scores,) = task.following_scores([Attempt([[5]] * holes, [False] * holes, 1)])
    assert len(scores) == holes
    assert np.isfinite(scores).all()
    assert max(scores) < 0


def test_lengths_above_16_are_compared_in_steps_of_at_most_a_quarter():
    class Task:
        lengths, texts, config, asked = (None,), ([1], [2]), GenerationConfig(max_tokens=64), set()

        def attempts(self, lengths, *, exact):
            return [Attempt([[7] * length], [not exact], 0) for (length,) in lengths]

        def length_scores(self, lengths):
            self.asked.update(length for (length,) in lengths)
            return [[0.0]] * len(lengths)

        def scores(self, attempts):
            return [[-1.0]] * len(attempts)

    search(Task(), 4)
    assert sorted(Task.asked) == [*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64]
