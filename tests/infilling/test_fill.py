"""Holes in a text: what is shown, how a length is found, and what comes back."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, fill, infill
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.decoding.hole_layout import unwrapped
from mlx_diffucoder.decoding.likelihood import every_second, log_probabilities
from mlx_diffucoder.errors import ConfigError, PromptError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.infilling.context import context_of
from mlx_diffucoder.infilling.lengths import search
from mlx_diffucoder.infilling.shared_text import SharedText
from mlx_diffucoder.infilling.task import FOLLOWING, Attempt, InfillTask

SHORT = GenerationConfig(max_tokens=4)


def test_blanks_before_a_hole_and_line_ends_behind_it_belong_to_its_tokens(dream_a):
    _, tokenizer = dream_a
    shown = context_of(tokenizer, ["if x:\r\n    ", "\r\n\r\nelse:\n"], 64)
    assert [tokenizer.decode(ids) for ids in shown.ids] == ["if x:\n   ", "else:\n"]
    ends = shown.leads[0], shown.tails[0]
    assert unwrapped(" return x\n\n", *ends) == "return x"
    assert unwrapped("return x", *ends) == "return x"
    assert unwrapped("  y\n\n\n", *ends) == " y\n"


def test_what_is_shown_and_a_hole_that_is_put_back_are_the_tokens_of_the_whole_text(dream_a):
    _, tokenizer = dream_a
    text = "def f(x):\n    if x:\n        return x\n    return 0\n"
    start, stop = text.index("return x"), text.index("\n    return 0")
    shown = context_of(tokenizer, [text[:start], text[stop:]], 64)
    hole = tokenizer.encode_plain(shown.leads[0] + text[start:stop] + shown.tails[0])
    assert [*shown.ids[0], *hole, *shown.ids[1]] == tokenizer.encode_plain(text)


@pytest.mark.parametrize("budget", [0, 1, 5, 20])
def test_no_more_than_the_budget_is_shown_and_in_whole_lines_where_they_fit(dream_a, budget):
    _, tokenizer = dream_a
    parts = ["a = 1\n" * 50, "b = 2\n" * 50, "c" * 5000]
    shown = context_of(tokenizer, parts, budget)
    before, between, after = (tokenizer.decode(ids) for ids in shown.ids)
    assert len(shown.ids[0]) <= budget
    assert len(shown.ids[1]) <= 2 * budget
    assert len(shown.ids[2]) <= budget
    assert parts[0].endswith(before)
    assert parts[2].startswith(after)
    assert bool(after) == bool(budget)
    assert not shown.shows_end
    if budget >= 5:
        assert set(before.split("\n")) == {"a = 1", ""}
        assert set(between.split("\n")) == {"b = 2", ""}
    assert context_of(tokenizer, ["a", "b\n"], 5).shows_end


def test_given_lengths_are_kept_and_the_holes_stand_between_the_texts(dream_a):
    model, tokenizer = dream_a
    filled = fill(model, tokenizer, ["a = ", 3, "\nb = ", 5, "\n"], SHORT)
    assert filled.lengths == [3, 5]
    assert filled.useful_tokens == 8
    assert filled.tried == 1
    assert filled.nfe > 1


@pytest.mark.parametrize("parts", [["a = ", 3, "\n"], ["a = ", 2, "\nb = ", 5, "\n"]])
def test_a_hole_that_must_be_filled_to_its_last_token_has_no_end_token_in_it(dream_a, monkeypatch, parts):
    """With a model that prefers to end every text at once."""
    model, tokenizer = dream_a
    ends, logits = mx.array(sorted(tokenizer.end_ids)), model.logits
    monkeypatch.setattr(model, "logits", lambda *args: logits(*args) + mx.zeros((768,)).at[ends].add(1e4))
    filled = fill(model, tokenizer, parts, SHORT)
    assert filled.lengths == parts[1::2]
    assert filled.useful_tokens == sum(filled.lengths)
    assert not filled.agreed


@pytest.mark.parametrize("tries", [1, 2])
def test_a_given_length_is_kept_where_that_of_another_hole_is_found(dream_a, monkeypatch, tries):
    """With a model that prefers to end every text at once."""
    model, tokenizer = dream_a
    ends, logits = mx.array(sorted(tokenizer.end_ids)), model.logits
    monkeypatch.setattr(model, "logits", lambda *args: logits(*args) + mx.zeros((768,)).at[ends].add(1e4))
    assert fill(model, tokenizer, ["a = ", None, "\nb = ", 3, "\n"], SHORT, tries=tries).lengths[1] == 3


def test_a_length_that_is_not_given_is_found(dream_a):
    model, tokenizer = dream_a
    filled = fill(model, tokenizer, ["a = ", None, "\nb = ", None, "\n"], SHORT)
    assert len(filled.holes) == 2
    assert filled.tried > 2
    assert np.isfinite(filled.score)
    assert isinstance(infill(model, tokenizer, "a = ", "\n", SHORT), str)


class Task:
    """Answers of a model that was trained to infill, or was not."""

    lengths = (None,)
    texts = ([1], [2])
    config = GenerationConfig(max_tokens=8)

    def __init__(self, said, probable, expects=7):
        self.said, self.probable, self.expects, self.asked, self.tried = said, probable, expects, [], 0

    def attempts(self, lengths, *, exact):
        self.asked += [length for (length,) in lengths]
        found = []
        for (length,) in lengths:
            self.tried += 1
            found.append((Attempt([[7] * length], [False], 0) if exact else self.said[length])._replace(number=self.tried))
        return found

    def length_scores(self, lengths):
        return [[-abs(length - self.expects)] for (length,) in lengths]

    def scores(self, attempts):
        return [[self.probable.get(tuple(attempt.ids[0]), -9.0)] for attempt in attempts]


def found_by(task, tries):
    """The text that is kept, its canvas, and whether the canvases agree."""
    found = search(task, tries)
    return found.attempt.ids[0], found.attempt.number, found.agreed


def ended(*ids):
    return Attempt([list(ids)], [True], 0)


def test_with_one_try_a_model_is_taken_at_its_word():
    assert found_by(Task({8: ended(5)}, {}), 1) == ([5], 1, True)


@pytest.mark.parametrize("tries", [2, 5, 8])
def test_otherwise_the_best_of_all_lengths_are_filled_and_the_most_probable_text_kept(tries):
    task = Task({}, {(7, 7): -0.6, (7, 7, 7): -0.7})
    text = [7] * {2: 7, 5: 4, 8: 2}[tries]
    task.probable = {(7,) * 2: -0.6, (7,) * 4: -0.8, (7,) * 7: -1}
    assert found_by(task, tries)[0] == text
    assert task.asked == [7, 6, 8, 5, 4, 3, 2, 1][:tries]


@pytest.mark.parametrize("expects", [1, 2, 5, 6, 8])
def test_the_length_at_which_masks_alone_expect_what_follows_is_taken_if_its_text_is_probable(expects):
    task = Task({}, {(7,) * expects: -0.4}, expects)
    assert found_by(task, 3) == ([7] * expects, 1, False)
    assert task.asked == [expects]


def test_the_lengths_next_to_it_are_tried_before_all_others():
    task = Task({}, {(7,) * 6: -0.4})
    assert found_by(task, 3) == ([7] * 6, 2, False)
    assert task.asked == [7, 6, 8]


@pytest.mark.parametrize("true", [(4, 2), (4, 5), (6, 1), (2, 7)])
@pytest.mark.parametrize("sure", [(4, None), (None, None)])
def test_each_of_several_holes_gets_the_length_at_which_its_own_text_is_the_most_probable(true, sure):
    """Masked holes tell nothing. A text of the right length is probable, whatever stands in the other hole."""
    task = Task({}, {})
    task.lengths, task.texts = tuple(known and true[0] for known in sure), ([1], [2], [3])
    task.length_scores = lambda rows: [[-5.0, -5.0] for _ in rows]
    asked = []

    def attempts(rows, *, exact):
        asked.append([tuple(row) for row in rows])
        return [Attempt([[7] * one for one in row], [False] * 2, 0) for row in rows]

    task.attempts = attempts
    task.scores = lambda found: [
        [-0.1 if len(ids) == at else -1.5 for ids, at in zip(one.ids, true, strict=True)] for one in found
    ]
    found = search(task, 9)
    assert tuple(map(len, found.attempt.ids)) == true
    assert found.score == pytest.approx(-0.1)
    for hole, length in enumerate(true):
        lengths = [{row[hole] for row in rows} for rows in asked]
        known = next(number for number, some in enumerate(lengths) if length in some)
        assert set().union(*lengths[known + 1 :]) <= {length}


def test_where_nothing_follows_a_hole_the_model_is_taken_at_its_word():
    task = Task({8: ended(1)}, {(7,) * 7: -0.4})
    task.texts = ([1], [])
    assert found_by(task, 8) == ([1], 1, True)


def test_every_forward_of_a_search_is_counted(dream_a, monkeypatch):
    """Those of denoising, and those for scores, with all the rows in them."""
    model, tokenizer = dream_a
    forwarded, network = [], type(model.model)
    real = network.__call__
    monkeypatch.setattr(
        network, "__call__", lambda self, tokens, *args: forwarded.append(tokens.size) or real(self, tokens, *args)
    )
    filled = fill(model, tokenizer, ["a = ", None, "\nb = ", 2, "\nc\n"], GenerationConfig(max_tokens=5, window="whole"))
    assert filled.nfe == len(forwarded) == len(filled.rows)
    assert filled.positions == sum(forwarded)


@pytest.mark.parametrize("tries", [1, 3])
def test_a_model_is_taken_at_its_word_about_the_holes_whose_length_is_not_given(tries):
    said = Attempt([[1, 2], [3, 4, 5]], [True, False], 1)
    task = Task({}, {})
    task.lengths, task.texts, task.scores = (None, 3), ([1], [2], []), lambda attempts: [[-0.3]]
    task.attempts = lambda lengths, *, exact: [said] * len(lengths)
    found = search(task, tries)
    assert (found.attempt, found.agreed) == (said, True)


def test_log_probabilities_are_those_of_the_masked_tokens(dream_a, monkeypatch):
    model, tokenizer = dream_a
    ids, forbidden = np.array([3, 5, 7, 11, 13, 17]), forbidden_ids(tokenizer, model.config.vocab_size)
    masks = every_second(np.arange(1, 6))
    assert [mask.tolist() for mask in masks] == [[1, 3, 5], [2, 4]]
    for mask in masks:
        canvas = mx.array([[tokenizer.mask_id if place in mask else id for place, id in enumerate(ids.tolist())]])
        hidden = model.model(canvas, 0, None, None)
        found = log_probabilities(model, hidden, ids, mask, forbidden)
        logits = np.array(mx.where(forbidden, -mx.inf, model(canvas))[0], dtype=np.float64)
        for place, value in zip(mask, found, strict=True):
            row = np.exp(logits[place - 1] - logits[place - 1].max())
            assert value == pytest.approx(np.log(row[ids[place]] / row.sum()), abs=1e-4)
        monkeypatch.setattr("mlx_diffucoder.decoding.likelihood.ROWS", 2)
        assert np.allclose(log_probabilities(model, hidden, ids, mask, forbidden), found, atol=1e-5)
        monkeypatch.undo()


@pytest.mark.parametrize(("margin", "batch"), [(FOLLOWING + 1, 1), (8, 12), (100, 1), (100, 12)])
def test_holes_of_several_lengths_score_and_fill_as_each_alone_where_the_text_is_forwarded_again(
    dream_a, monkeypatch, margin, batch
):
    """With a margin beyond the text nothing is shared; else the keys and values of far text are those of another canvas."""
    monkeypatch.setattr("mlx_diffucoder.infilling.shared_text.MARGIN", margin)
    monkeypatch.setattr("mlx_diffucoder.infilling.task.BATCH", batch)
    parts = ["def f(x):\n    y = 1\n" * 3, "    z = x + y\n" * 5, "\n\nprint(f(2))\n" * 3]
    rows = [[2, 3], [5, 1], [1, 1]]

    def task():
        return InfillTask(*dream_a, parts, [None, None], SHORT, None, 64, None)

    together = task()
    scores, filled = together.length_scores(rows), together.attempts(rows, exact=True)
    separate = 0
    for row, found, score in zip(rows, filled, scores, strict=True):
        alone = task()
        assert np.allclose(alone.length_scores([row]), [score], atol=1e-4 if margin == 100 else 1)
        (text,) = alone.attempts([row], exact=True)
        assert margin < 100 or text.ids == found.ids
        assert list(map(len, found.ids)) == row
        separate += alone.positions
    assert (together.positions < separate) == (margin < 100)


def test_keys_are_turned_to_where_the_text_is_now(dream_a):
    """Without holes between them, and with nothing else forwarded, a text's first keys depend on its position alone."""
    model, tokenizer = dream_a
    shared = SharedText(model, [3, 4])
    ids = np.array([3, 5, 7, tokenizer.mask_id, 11, 13, 17, 19], dtype=np.int32)
    part, _ = shared.part(ids, [1])
    model.model(*part)
    longer = np.insert(ids, 3, [tokenizer.mask_id] * 5)
    whole, _ = SharedText(model, [3, 4]).part(longer, [6])
    model.model(*whole)
    (keys, values), (expected, same) = shared.layers([6])[0], whole.kv.layers[0]
    text = [0, 1, 2, 9, 10, 11, 12]
    assert np.allclose(np.array(keys)[:, :, text], np.array(expected)[:, :, text], atol=1e-4)
    assert np.allclose(np.array(values)[:, :, text], np.array(same)[:, :, text], atol=1e-5)


def test_what_cannot_be_filled_says_why(dream_a):
    model, tokenizer = dream_a
    for parts, said in [
        ("text", "list"),
        (["a", "b"], "no hole"),
        (["a", 0, "b"], "1 or more"),
        (["a", True], "1 or more"),
        ([" \n", None], "instruction is needed"),
        (["a", 5000, "b"], "context is"),
    ]:
        with pytest.raises(PromptError, match=said):
            fill(model, tokenizer, parts)
    with pytest.raises(ConfigError, match="system needs an instruction"):
        fill(model, tokenizer, ["a", None], GenerationConfig(system="be brief"))
    with pytest.raises(ConfigError, match="reference"):
        fill(model, tokenizer, ["a", None], GenerationConfig(reference=True))


def test_a_token_that_can_never_be_chosen_has_the_least_log_probability_there_is(dream_a):
    model, _ = dream_a
    forbidden = mx.arange(768) != 3
    hidden = model.model(mx.array([[3, 5, 3]]), 0, None, None)
    found, empty = (
        log_probabilities(model, hidden, np.array([3, 5, 3]), np.array(rows, dtype=np.int64), forbidden) for rows in ([1, 2], [])
    )
    assert found.tolist() == [-100.0, 0.0]
    assert (len(empty), empty.dtype) == (0, np.float32)


@pytest.mark.parametrize("longest", [1, 2])
def test_no_canvas_is_denoised_twice_before_every_length_is_tried(dream_a, longest, monkeypatch):
    asked = []
    attempts = InfillTask.attempts

    def recorded(task, lengths, *, exact):
        asked.append([list(row) for row in lengths])
        return attempts(task, lengths, exact=exact)

    monkeypatch.setattr(InfillTask, "attempts", recorded)
    fill(*dream_a, ["def f(x):\n    return", None, "\n\nprint(f(2))\n"], GenerationConfig(**{**HOLES, "max_tokens": longest}))
    first = asked[: 1 if longest == 1 else 2]
    rows = [tuple(row) for one in first for row in one]
    assert len(rows) == len(set(rows)) == longest
