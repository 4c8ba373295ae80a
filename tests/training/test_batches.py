"""What a canvas looks like, and that each follows from the seed and its number."""

import json
from itertools import pairwise

import numpy as np
import pytest

from mlx_diffucoder.errors import TaskError, TrainError
from mlx_diffucoder.training.batches import Batches
from mlx_diffucoder.training.data import REPORTED_TOGETHER, read_examples
from mlx_diffucoder.training.settings import TrainSettings

from .small import write_rows


@pytest.fixture(scope="module")
def examples(tmp_path_factory, dream_a_tokenizer):
    file = write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", 30)
    return read_examples(file, dream_a_tokenizer, max_length=256, skip_long=False).kept


@pytest.fixture(scope="module")
def dream_a_tokenizer():
    from mlx_diffucoder.tokenizer import Tokenizer

    from .small import CHECKPOINT

    return Tokenizer.load(CHECKPOINT)


def canvases(batches, number):
    found, _ = batches._canvases(number)
    return found.tokens, found.learnt


def test_an_answers_canvas_is_prompt_answer_end_and_padding_and_all_behind_the_prompt_is_learnt(examples, dream_a_tokenizer):
    batches = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=4, max_length=200, canvas="full"))
    tokens, learnt = canvases(batches, 0)
    assert tokens.shape == (4, 200)
    for row, mask in zip(tokens, learnt, strict=True):
        start = int(mask.argmax())
        assert mask[start:].all()
        own = next(one for one in examples if (row[: len(one)] == np.concatenate([one.prompt, one.answer])).all())
        assert start == len(own.prompt)
        assert own.answer[-1] == dream_a_tokenizer.end_id(chat=True)
        assert (row[len(own) :] == dream_a_tokenizer.pad_id).all()


def test_a_hole_is_span_and_padding_and_what_is_around_the_holes_is_known(examples, dream_a_tokenizer):
    batches = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=8, max_length=200, infill=1.0, seed=3))
    pad, end = dream_a_tokenizer.pad_id, dream_a_tokenizer.end_id(chat=False)
    whole = {(*one.prompt, *one.answer) for one in examples}
    bare = {(*one.answer[:-1], end) for one in examples}
    assert end != examples[0].answer[-1]
    counts, prompted, longer = [], 0, 0
    for number in range(12):
        for row, mask in zip(*canvases(batches, number), strict=True):
            assert not mask[0]
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
            counts.append(len(edges) // 2)
            for start, stop in edges.reshape(-1, 2):
                hole = row[start:stop]
                assert hole[0] != pad
                assert (np.diff((hole == pad).astype(int)) >= 0).all()  # padding only behind the span
                longer += hole[-1] == pad
            shown = tuple(row[row != pad].tolist())
            prompted += shown in whole
            assert shown in whole or shown in bare
    assert 30 < prompted < len(counts) - 20
    assert longer > 40
    assert set(counts) == {1, 2, 3}
    assert counts.count(1) > len(counts) / 2


def test_spans_are_whole_lines_about_half_of_the_time(examples, dream_a_tokenizer):
    batches = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=8, max_length=200, infill=1.0))
    rng = np.random.default_rng(0)
    text = examples[0].answer[:-1]
    whole = 0
    for number in range(400):
        spans = batches._spans(rng, text, least=number % 2)
        assert spans[0][0] >= number % 2 and spans[-1][1] <= len(text)
        assert all(start < stop for start, stop in spans)
        assert all(one[1] < other[0] for one, other in pairwise(spans))
        before = dream_a_tokenizer.decode(text[: spans[0][0]].tolist())
        span = dream_a_tokenizer.decode(text[slice(*spans[0])].tolist())
        whole += (number % 2 == 1 or not before or before.endswith("\n")) and span.endswith("\n")
    assert 120 < whole < 300  # half, and those that chance makes whole


def test_batches_follow_from_seed_and_number_alone(examples, dream_a_tokenizer):
    settings = TrainSettings(steps=1, batch_size=4, max_length=128, infill=0.5, seed=7)
    one, two = (Batches(examples, dream_a_tokenizer, settings) for _ in range(2))
    for number in (0, 9, 3):  # neither order nor what was drawn before matters
        assert (two.draw(number)[0].tokens == one.draw(number)[0].tokens).all()
    other = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=4, max_length=128, infill=0.5, seed=8))
    assert (
        other.draw(0)[0].tokens.shape != one.draw(0)[0].tokens.shape or (other.draw(0)[0].tokens != one.draw(0)[0].tokens).any()
    )


def test_the_causal_objective_asks_for_the_answer_and_its_end_and_masks_nothing(examples, dream_a_tokenizer):
    batches = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=4, max_length=512, objective="causal"))
    answers = {example.answer.tobytes() for example in examples}
    (batch,) = batches.draw(3)
    assert dream_a_tokenizer.mask_id not in batch.tokens
    length = batch.tokens.shape[1]
    assert length == -(-max(len(one) for one in (examples[index] for index in batches._order(0)[3])) // 8) * 8
    kept = batch.weights > 0
    for row in range(4):
        asked = batch.positions[kept & (batch.positions // length == row)] % length
        assert batch.tokens[row, asked].tobytes() in answers
        assert (np.diff(asked) == 1).all()


def test_the_mixed_objective_has_every_second_batch_from_left_to_right(examples, dream_a_tokenizer):
    settings = TrainSettings(steps=1, batch_size=4, max_length=128, infill=0.5, objective="mixed")
    batches = Batches(examples, dream_a_tokenizer, settings)
    drawn = [batches.draw(number)[0] for number in range(6)]
    assert [batch.seen.size > 0 for batch in drawn] == [False, True] * 3
    for batch in drawn[1::2]:  # a prompt, an answer that is asked for, and masks where nothing is
        count, length = batch.tokens.shape
        assert batch.seen.shape == (count, 1, length, length)
        rows, last = np.divmod(batch.positions[batch.weights > 0], length)
        for row in range(count):
            masked = batch.tokens[row] == dream_a_tokenizer.mask_id
            assert (masked == (np.arange(length) > last[rows == row].max())).all()
    for one, again in zip(drawn[2:4], batches.draw(2, 2), strict=True):  # each objective's losses sum up to its own mean
        assert (one.weights == again.weights).all()


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 0.35, 0.65), (1.0, 1, 1)])
def test_the_padding_of_a_share_of_the_answers_is_masked_with_a_probability_of_its_own(
    examples, dream_a_tokenizer, share, least, most
):
    settings = TrainSettings(steps=1, batch_size=4, max_length=512, canvas="full", least_t=0.2, padding=share, seed=2)
    batches, apart = Batches(examples, dream_a_tokenizer, settings), []
    for number in range(30):
        (batch,) = batches.draw(number)
        whole, _ = batches._canvases(number)
        counted = np.zeros(batch.tokens.size)
        counted[batch.positions] = batch.weights * whole.learnt.sum()
        masked = (batch.tokens == dream_a_tokenizer.mask_id) & whole.learnt
        for row, (weights, answer) in enumerate(zip(counted.reshape(batch.tokens.shape), whole.answers, strict=True)):
            end = int(whole.learnt[row].argmax()) + answer
            t, own = (1 / weights[part][masked[row, part]] for part in (slice(0, end), slice(end, None)))
            assert (t == t[:1]).all() and (own == own[0]).all()
            assert own[0] == pytest.approx(masked[row, end:].mean(), abs=0.15)
            apart += [t[0] != own[0]] if len(t) else []
    assert len(apart) > 100
    assert least <= np.mean(apart) <= most


def test_the_padding_behind_a_prefix_is_not_all_masked_then(examples, dream_a_tokenizer):
    settings = TrainSettings(steps=1, batch_size=4, max_length=512, canvas="full", least_t=0.2, prefixes=1.0, padding=1.0)
    batches, known = Batches(examples, dream_a_tokenizer, settings), []
    for number in range(10):
        (batch,) = batches.draw(number)
        whole, _ = batches._canvases(number)
        for row, answer in enumerate(whole.answers):
            first = int(whole.learnt[row].argmax())
            masked = batch.tokens[row] == dream_a_tokenizer.mask_id
            assert (np.diff(masked[first : first + answer].astype(int)) >= 0).all()  # known, and from a place on masked
            known.append(1 - masked[first + answer :].mean())
    assert min(known) < 0.1 and 0.7 < max(known) < 0.9


def test_a_share_of_the_answers_is_masked_from_a_place_on_and_none_of_the_holes(examples, dream_a_tokenizer):
    mask, pad = dream_a_tokenizer.mask_id, dream_a_tokenizer.pad_id
    settings = TrainSettings(steps=1, batch_size=4, max_length=128, infill=0.4, prefixes=0.5, seed=2)
    batches = Batches(examples, dream_a_tokenizer, settings)
    cut, drawn, left = 0, 0, set()
    for number in range(60):
        (batch,) = batches.draw(number)
        whole, _ = batches._canvases(number)
        for row, answer in enumerate(whole.answers):
            masked = batch.tokens[row] == mask
            drawn += answer > 0
            weights = batch.weights[batch.positions // masked.size == row]
            weights = weights[weights > 0]
            if len(weights) > 1 and weights[1] == pytest.approx(0.7 * weights[0], rel=1e-5):
                assert answer and not masked[: masked.argmax()].any() and masked[masked.argmax() :].all()
                cut += 1
                left.add(int(masked.argmax() - whole.learnt[row].argmax()) / answer)
                assert masked.argmax() <= (whole.tokens[row] == pad).argmax() or not (whole.tokens[row] == pad).any()
    assert 0.4 * drawn < cut < 0.6 * drawn
    assert min(left) == 0 and max(left) == 1


def test_an_epoch_has_every_example_once(examples, dream_a_tokenizer):
    batches = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=4, max_length=128))
    for epoch in (0, 1):
        assert sorted(index for batch in batches._order(epoch) for index in batch) == list(range(len(examples)))
    assert batches._order(0) != batches._order(1)


def test_batches_drawn_together_share_the_count_they_are_divided_by(examples, dream_a_tokenizer):
    batches = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=4, max_length=128))
    single = [batches.draw(number)[0] for number in (0, 1)]
    together = batches.draw(0, 2)
    for one, part in zip(single, together, strict=True):
        assert (one.positions == part.positions).all()
        share = part.weights[0] / one.weights[0]
        assert 0 < share < 1
    assert sum(part.weights[0] / one.weights[0] for one, part in zip(single, together, strict=True)) == pytest.approx(1)


def test_short_canvases_are_met_more_often_and_the_longest_too(examples, dream_a_tokenizer):
    batches = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=2, max_length=256))
    lengths = [canvases(batches, number)[0].shape[1] for number in range(400)]
    assert max(lengths) > 240
    assert np.median(lengths) < (min(lengths) + 256) / 2
    longest = Batches(examples, dream_a_tokenizer, TrainSettings(steps=1, batch_size=2, max_length=256, canvas="longest"))
    assert canvases(longest, 0)[0].shape[1] <= max(map(len, examples)) + 8


def test_long_examples_are_counted_and_stop_it_unless_they_are_to_be_skipped(tmp_path, dream_a_tokenizer):
    file = write_rows(tmp_path / "rows.jsonl", 5)
    with file.open("a") as rows:
        rows.write('{"prompt": "Much.", "completion": "' + "x = 1; " * 80 + '"}\n')
    with pytest.raises(
        TrainError, match=r"1 text is longer than 60 tokens \(the longest \d+, at 6\); skip them with --skip-long"
    ):
        read_examples(file, dream_a_tokenizer, max_length=60, skip_long=False)
    found = read_examples(file, dream_a_tokenizer, max_length=60, skip_long=True)
    assert (len(found.kept), found.skipped) == (5, 1)
    with pytest.raises(TrainError, match="none is left"):
        read_examples(file, dream_a_tokenizer, max_length=8, skip_long=True)


def test_a_text_that_is_far_too_long_is_not_encoded_and_thousands_are_counted(tmp_path, dream_a_tokenizer, monkeypatch):
    count, rows = 2 * REPORTED_TOGETHER + 1, [{"prompt": "Much.", "completion": "x = 1; " * 10**6}]
    (file := tmp_path / "rows.json").write_text(json.dumps([{"prompt": "x", "completion": "y"}] * count + rows))
    encode, seen, told = dream_a_tokenizer.encode_plain, [], []
    monkeypatch.setattr(dream_a_tokenizer, "encode_plain", lambda text: seen.append(len(text)) or encode(text))
    found = read_examples(file, dream_a_tokenizer, max_length=60, skip_long=True, advance=told.append)
    assert (len(found.kept), found.skipped, sum(told)) == (count, 1, count - 1)
    assert max(seen) < 1000
    with pytest.raises(TrainError, match=rf"1 text .*the longest at least \d+, at row {count + 1}\)"):
        read_examples(file, dream_a_tokenizer, max_length=60, skip_long=False)


def test_empty_data_and_bad_lines_are_named(tmp_path, dream_a_tokenizer):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n")
    with pytest.raises(TaskError, match="holds no text"):
        read_examples(file, dream_a_tokenizer, max_length=64, skip_long=False)
    write_rows(file, 3)
    with file.open("a") as rows:
        rows.write('{"prompt": "no completion"}\n')
    with pytest.raises(TaskError, match=":4: not a known format"):
        read_examples(file, dream_a_tokenizer, max_length=256, skip_long=False)
