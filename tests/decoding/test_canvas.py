import numpy as np
import pytest

from mlx_diffucoder.decoding.canvas import Canvas, count_up_to_end, final_tokens, predictor_of, selected_first, text_before

MASK, END = 9, {7, 8}


def canvas_of(prompts):
    return Canvas.of(prompts, 2, mask_id=MASK, pad_id=0, end_ids=frozenset(END))


@pytest.mark.parametrize(
    ("answers", "finished"),
    [
        ([[1, 7], [8, 9]], True),  # masks after an end token do not matter
        ([[1, 7], [9, 8]], False),  # a mask before it does
        ([[1, 7], [1, 1]], True),  # nor has a full canvas anything to wait for
        ([[1, 7], [1, 9]], False),
    ],
)
def test_a_canvas_is_finished_when_no_text_can_change(answers, finished):
    canvas = canvas_of([[1, 7, 3], [7]])  # the prompts' own end tokens do not count
    tokens = canvas.tokens.copy()
    tokens[:, 3:] = answers
    assert canvas.finished(tokens) == finished


def test_padding_out_touches_masks_only():
    canvas = canvas_of([[1]])
    assert canvas.padded_out(array(1, 7, 9, 9)).tolist() == [1, 7, 0, 0]


def array(*ids):
    return np.array(ids, dtype=np.int32)


def test_prompts_of_unequal_length_are_aligned_at_their_right():
    canvas = canvas_of([[1, 2, 3], [4]])
    assert canvas.tokens.tolist() == [[1, 2, 3, 9, 9], [0, 0, 4, 9, 9]]
    assert canvas.padding.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("answer", "text", "ended"),
    [
        (array(1, 2, 9, 3), [1, 2], False),
        (array(1, 2, 7, 9), [1, 2], True),
        (array(9, 7), [], False),
        (array(8, 1), [], True),
        (array(1, 2), [1, 2], False),
    ],
)
def test_final_tokens_end_at_the_first_mask_or_end_token(answer, text, ended):
    ids, found = final_tokens(answer, mask_id=MASK, end_ids=END)
    assert (ids.tolist(), found) == (text, ended)


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (array(1, 2, 7, 8, 8), (3, 0)),  # up to and with the end token; padding is not counted
        (array(1, 2, 3), (3, 0)),
        (array(1, 9, 3, 9), (2, 2)),  # nor do unresolved masks
        (array(1, 9, 7, 9), (2, 1)),
        (array(9, 9), (0, 2)),
    ],
)
def test_useful_tokens_and_masks_up_to_the_end(answer, counts):
    assert count_up_to_end(answer, mask_id=MASK, end_ids=END) == counts


def test_masked_positions_make_a_rectangle_without_repeats():
    masked = np.array([[False, True, True, False], [True, True, True, False], [False] * 4])
    positions = selected_first(masked)
    assert np.take_along_axis(masked, positions, axis=1).tolist() == [[True, True, False], [True, True, True], [False] * 3]
    assert positions[0, :2].tolist() == [1, 2]
    assert all(len(set(row)) == 3 for row in positions.tolist())


def test_no_mask_at_all_still_makes_one_column():
    assert selected_first(np.zeros((2, 4), dtype=bool)).shape == (2, 1)


def test_a_position_is_predicted_a_shift_to_its_left_and_a_row_s_first_token_by_itself():
    positions, padding = np.array([[0, 1, 5], [2, 3, 4]], dtype=np.int32), np.array([0, 2], dtype=np.int32)
    assert predictor_of(positions, padding, 1).tolist() == [[0, 0, 4], [2, 2, 3]]
    assert predictor_of(positions, padding, 0).tolist() == positions.tolist()


@pytest.mark.parametrize(("until", "found"), [(("ab",), ("xabc", None)), (("bc",), ("xa", 1)), (("c", "bc"), ("xa", 1))])
def test_a_stop_text_that_ends_within_the_prefill_is_not_looked_for(until, found):
    assert text_before(until, "xab", [1], lambda ids: "c" * len(ids)) == found
