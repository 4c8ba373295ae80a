import numpy as np
import pytest

from mlx_diffucoder.decoding.canvas import Canvas, count_up_to_end, final_tokens, predictor_of, selected_first, text_before

MASK, END = 9, {7, 8}


CANVAS = Canvas.of([1, 7, 3], 2, mask_id=MASK, pad_id=0, end_ids=frozenset(END))


@pytest.mark.parametrize(
    ("answer", "finished"),
    [
        ([8, 9], True),  # masks after an end token do not matter
        ([9, 8], False),  # a mask before it does
        ([1, 1], True),  # nor has a full canvas anything to wait for
        ([1, 9], False),
    ],
)
def test_a_canvas_is_finished_when_no_text_can_change(answer, finished):
    tokens = CANVAS.tokens.copy()  # the prompt's own end token does not count
    tokens[3:] = answer
    assert CANVAS.finished(tokens) == finished


def test_padding_out_touches_masks_only():
    assert CANVAS.padded_out(array(1, 7, 9, 9)).tolist() == [1, 7, 0, 0]


def array(*ids):
    return np.array(ids, dtype=np.int32)


def test_texts_have_holes_between_them():
    canvas = Canvas.around([[1, 2], [], [3]], [1, 2], mask_id=MASK, pad_id=0, end_ids=frozenset())
    assert canvas.tokens.tolist() == [1, 2, 9, 9, 9, 3]
    assert canvas.holes.tolist() == [[2, 3], [3, 5]]
    assert canvas.lengths == [1, 2]
    assert [text.tolist() for text in canvas.texts] == [[1, 2], [], [3]]


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


@pytest.mark.parametrize(("least", "found"), [(1, [1, 2]), (3, [1, 2, 0]), (9, [1, 2, 0, 3])])
def test_selected_positions_come_first_and_others_fill_up_their_number(least, found):
    assert selected_first(np.array([False, True, True, False]), least).tolist() == found


def test_no_mask_at_all_still_makes_one_position():
    assert len(selected_first(np.zeros(4, dtype=bool))) == 1


def test_a_position_is_predicted_a_shift_to_its_left_and_the_first_token_by_itself():
    positions = np.array([0, 1, 5], dtype=np.int32)
    assert predictor_of(positions, 1).tolist() == [0, 0, 4]
    assert predictor_of(positions, 0).tolist() == positions.tolist()


@pytest.mark.parametrize(("until", "found"), [(("ab",), ("xabc", None)), (("bc",), ("xa", 1)), (("c", "bc"), ("xa", 1))])
def test_a_stop_text_that_ends_within_the_prefill_is_not_looked_for(until, found):
    assert text_before(until, "xab", [1], lambda ids: "c" * len(ids)) == found
