import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.decoding.reference import ReferenceSchedule, reference_rule
from mlx_diffucoder.decoding.rules.base import Candidates, largest
from mlx_diffucoder.decoding.rules.schedule import (
    RandomSchedule,
    Schedule,
    commit_share,
    schedule_for,
    timestep,
)

from ..conftest import DATA

RNG = np.random.default_rng(0)


def candidates(scores):
    scores = mx.array(scores)
    positions = np.broadcast_to(np.arange(scores.shape[1], dtype=np.int32), scores.shape)
    masked = scores > -mx.inf
    return Candidates(scores, scores, -scores, masked, positions, scores.shape[1])


def test_schedule_commits_what_the_reference_commits_at_every_step():
    cases = json.loads((DATA / "schedule.json").read_text())
    assert len(cases) > 200
    for case in cases:
        rule, left, committed = Schedule(case["steps"], case["eps"]), case["masks"], []
        for index in range(case["steps"]):
            count = int(rule.quota(index, np.array([left]), RNG)[0])
            committed.append(count)
            left -= count
        assert committed == case["committed"], case


def test_timesteps_run_from_one_to_eps():
    assert timestep(0, 7, 1e-3) == 1
    assert timestep(7, 7, 1e-3) == np.float32(1e-3)


def test_one_quota_for_all_rows_by_their_mean_but_never_more_than_a_row_has():
    rule = Schedule(steps=2, eps=1e-3)
    assert rule.quota(0, np.array([1, 8, 15]), RNG).tolist() == [1, 3, 3]  # int(8 * 0.4995) = 3
    assert rule.quota(1, np.array([0, 5, 12]), RNG).tolist() == [0, 5, 12]  # the last step
    assert ReferenceSchedule(2, 1e-3).quota(1, np.array([0, 5, 12]), RNG).tolist() == [0, 5, 5]  # int(17 / 3)


def test_largest_breaks_ties_to_the_left_and_takes_no_empty_position():
    scores = mx.array([[0.5, 0.9, 0.5, 0.5], [-mx.inf, 0.1, -mx.inf, 0.1]])
    assert largest(scores, np.array([2, 3])).tolist() == [[True, True, False, False], [False, True, False, True]]


def test_largest_equals_a_stable_sort():
    scores = RNG.integers(0, 5, size=(20, 30)).astype(np.float32)
    quota = RNG.integers(0, 31, size=20)
    commit = np.array(largest(mx.array(scores), quota))
    for row, count, taken in zip(scores, quota, commit, strict=True):
        assert sorted(np.argsort(-row, kind="stable")[:count]) == np.flatnonzero(taken).tolist()


def test_reference_schedule_differs_from_the_plain_one_in_ties_only():
    plain, reference = Schedule(4, 1e-3), ReferenceSchedule(4, 1e-3)
    distinct = candidates(RNG.permutation(26).astype(np.float32)[None])
    for scores, equal in ((distinct, True), (candidates([[0.0] * 26]), False)):
        ours = plain.commit(scores, np.array([3]), mx.random.key(0))
        theirs = reference.commit(scores, np.array([3]), mx.random.key(0))
        assert mx.array_equal(ours, theirs).item() == equal
        assert theirs.sum().item() == 3


def test_alg_temp_draws_positions_from_the_softmax_of_their_scores():
    """Chi-square of the first draw over 20,000 rows; 16.27 is the 0.1 % point at 3 degrees of freedom."""
    rows, alg_temp = 20_000, 0.5
    scores = [0.1, 0.9, 0.4, 0.0]
    rule = Schedule(4, 1e-3, alg_temp)
    commit = rule.commit(candidates([scores] * rows), np.ones(rows, dtype=int), mx.random.key(3))
    weights = np.exp(np.array(scores) / alg_temp)
    expected = rows * weights / weights.sum()
    counts = np.array(commit).sum(axis=0)
    assert counts.sum() == rows
    assert ((counts - expected) ** 2 / expected).sum() < 16.27


def test_alg_temp_draws_without_replacement():
    """Drawing two of three: how often each is left out, against successive draws."""
    rows = 20_000
    weights = np.array([0.5, 0.3, 0.2])
    rule = Schedule(4, 1e-3, 1.0)
    commit = np.array(rule.commit(candidates([np.log(weights).tolist()] * rows), np.full(rows, 2), mx.random.key(5)))
    left_out = np.bincount((~commit).argmax(axis=1), minlength=3)
    # P(c left out) = sum over the order of the other two of w_a * w_b / (1 - w_a)
    a, b, c = weights
    expected = rows * np.array(
        [b * c / (1 - b) + c * b / (1 - c), a * c / (1 - a) + c * a / (1 - c), a * b / (1 - a) + b * a / (1 - b)]
    )
    assert ((left_out - expected) ** 2 / expected).sum() < 13.82  # 0.1 % at 2 degrees of freedom


def test_origin_commits_each_mask_with_probability_one_minus_s_over_t():
    rule, rng = RandomSchedule(4, 1e-3), np.random.default_rng(0)
    counts = np.array([rule.quota(0, np.array([40]), rng)[0] for _ in range(4000)])
    share = float(commit_share(0, 4, 1e-3))
    assert counts.mean() == pytest.approx(40 * share, rel=0.02)
    assert counts.var() == pytest.approx(40 * share * (1 - share), rel=0.1)
    assert rule.quota(3, np.array([7]), rng).tolist() == [7]  # all that is left in the last step


def test_schedules_are_values():
    assert schedule_for(GenerationConfig(max_tokens=8)) == Schedule(8, 1e-3)
    assert schedule_for(GenerationConfig(steps=4, alg_temp=0.1)) == Schedule(4, 1e-3, 0.1)
    assert schedule_for(GenerationConfig(steps=4, alg="origin")) == RandomSchedule(4, 1e-3)
    assert reference_rule(GenerationConfig(steps=4, reference=True)) == ReferenceSchedule(4, 1e-3)
    assert reference_rule(GenerationConfig(steps=4, alg="origin", reference=True)) == RandomSchedule(4, 1e-3)
    assert reference_rule(GenerationConfig(steps=4)) == Schedule(4, 1e-3)
    assert "steps=4" in repr(Schedule(4, 1e-3))
