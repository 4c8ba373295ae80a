"""Numbers of an order, against answers worked out by hand and against the plain definitions."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.studies.trace_picture import distances
from mlx_diffucoder.statistics import order_agreement
from mlx_diffucoder.trace.autoregressiveness import (
    committed_in,
    global_autoregressiveness,
    local_autoregressiveness,
    within,
)


def step(*committed, scores=None, back=()):
    scores = [1.0] * len(committed) if scores is None else scores
    return SimpleNamespace(committed=np.array(committed), scores=np.array(scores), remasked=np.array(back, dtype=int))


def masks(known, count):
    return np.arange(known + count) >= known


def both(steps, masked, k):
    return local_autoregressiveness(steps, masked, k), global_autoregressiveness(steps, masked, k)


def test_from_left_to_right_is_1_at_every_k():
    for known in (0, 1, 3):
        steps = [step(known + place) for place in range(6)]
        assert [both(steps, masks(known, 6), k) for k in (1, 2, 5, 9)] == [(1, 1)] * 4


def test_from_right_to_left_is_0_until_the_masks_run_out():
    steps = [step(position) for position in (6, 5, 4, 3)]
    # 6 has three masks before it, 5 two, 4 one, 3 none.
    assert [both(steps, masks(3, 4), k) for k in (1, 2, 3, 4)] == [(0, 1 / 4), (0, 2 / 4), (0, 3 / 4), (0, 1)]


def test_an_order_worked_out_by_hand():
    steps = [step(position) for position in (3, 4, 6, 7, 5)]
    # k = 1: 3, 4 and 7 stand behind the token before them. k = 2: behind 6 alone, 7 extends no run of two.
    # Leftmost were 3, 4 and 5; 6 and 7 were the second of the masks that were left.
    assert both(steps, masks(3, 5), 1) == (3 / 5, 3 / 5)
    assert both(steps, masks(3, 5), 2) == (2 / 5, 1)


def test_tokens_of_one_step_count_from_the_surest_and_equals_from_the_left():
    # One after another they are 2, 1, 3, 4: only 4 stands behind the one before it.
    steps = [step(1, 2, scores=[0.5, 0.9]), step(3, 4, scores=[0.7, 0.7])]
    assert both(steps, masks(1, 4), 1) == (1 / 4, 3 / 4)
    assert both(steps, masks(1, 4), 2) == (0, 1)


def test_what_was_taken_back_is_a_mask_again_and_counts_twice():
    steps = [step(1, 2, back=()), step(3, back=(1,)), step(1), step(4)]
    # 1, 2, 3, then 1 again while 1 and 4 are masked, then 4.
    assert both(steps, masks(1, 4), 1) == (3 / 5, 1)


def test_nothing_committed_has_no_number():
    assert both([], masks(2, 3), 1) == (None, None)


@given(st.permutations(range(2, 9)), st.integers(1, 8))
def test_the_plain_definitions_give_the_same(order, k):
    history = [*range(-9, 2), *order]
    local = sum(history[i - k : i + 1] == list(range(p - k, p + 1)) for i, p in enumerate(history) if i >= 11)
    globally = sum(p in sorted(order[i:])[:k] for i, p in enumerate(order))
    assert both([step(position) for position in order], masks(2, 7), k) == (local / 7, globally / 7)


def test_which_step_wrote_what_stayed():
    steps = [step(1, 3), step(2, back=(3,)), step(3), step(4), step(5, back=(4,))]
    assert committed_in(steps, 7).tolist() == [-1, 0, 1, 2, -1, 4, -1]


def test_order_agreement_worked_out_by_hand():
    def agreement(one, other):
        return order_agreement(np.array(one), np.array(other))

    assert agreement([0, 1, 2, 3], [0, 1, 2, 3]) == 1
    assert agreement([0, 1, 2, 3], [3, 2, 1, 0]) == 0
    assert agreement([0, 1, 2], [0, 2, 1]) == pytest.approx(2 / 3)  # tau 1/3
    assert agreement([0, 0, 1], [0, 1, 2]) == 1  # the pair of one step is left out
    assert agreement([0, -1, 1], [1, 0, 0]) == 0  # and so is what only one committed
    assert agreement([0, 0], [0, 1]) is None


def test_what_stands_between_two_holes_is_no_jump():
    masked = np.array([0, 1, 1, 0, 0, 1, 1, 0], dtype=bool)
    for k in (1, 2, 3):
        assert both([step(position) for position in (1, 2, 5, 6)], masked, k) == (1, 1)
    # 5 and 6 first: 5 is the third mask, 6 stands behind it; then 1 begins anew.
    assert both([step(position) for position in (5, 6, 1, 2)], masked, 1) == (2 / 4, 2 / 4)
    assert [distance for _, distance, _ in distances([step(1, 2, 5, 6)], masked)] == [0, 1, 0, 1]


def test_what_is_left_out_of_the_places_asked_for_is_left_out_of_the_steps():
    part, empty = within([step(1, 4, scores=[0.5, 0.25], back=(2, 5)), step(4)], np.arange(6) < 4)
    assert (part.committed.tolist(), part.scores.tolist(), part.remasked.tolist()) == ([1], [0.5], [2])
    assert empty.committed.tolist() == []


def test_distances_count_from_the_text_that_stood_there():
    steps = [step(4, scores=[0.5]), step(3, 5, scores=[0.25, 0.125])]
    assert list(distances(steps, masks(3, 3))) == [(0, 1, 0.5), (1, 0, 0.25), (1, 2, 0.125)]


@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_order_agreement_counts_every_pair_once(steps):
    random = np.random.default_rng(0)
    one, other = random.integers(-1, steps, (2, 99))
    both = [pair for pair in zip(one.tolist(), other.tolist(), strict=True) if min(pair) >= 0]
    signs = [(a - c) * (b - d) for (a, b), (c, d) in itertools.combinations(both, 2)]
    counted = sum(sign != 0 for sign in signs)
    assert order_agreement(one, other) == (sum(sign > 0 for sign in signs) / counted if counted else None)


def test_orders_of_a_hundred_thousand_positions_are_compared_in_seconds():
    order, began = np.arange(100_000), time.monotonic()
    assert order_agreement(order, order[::-1]) == 0
    assert time.monotonic() - began < 5
