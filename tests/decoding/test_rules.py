"""The adaptive rules on five candidates, by hand."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.choices import RULES, describe
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.rules.adaptive import EntropyBound, Factor, Stability, Threshold
from mlx_diffucoder.decoding.rules.base import Candidates
from mlx_diffucoder.decoding.rules.remask import Backtrack
from mlx_diffucoder.decoding.rules.schedule import Schedule
from mlx_diffucoder.errors import ConfigError

KEY = mx.random.key(0)
EVERY = [
    Threshold(0.9),
    Factor(1.0),
    EntropyBound(0.1),
    Stability(0.9, 0.1, 1),
    Backtrack(0.9, 0.5, 1),
]


def candidates(confidence, *, entropy=None, positions=None, masked=None, current=None):
    """One row of two-token distributions; scores are the confidences. `current`: probabilities of tokens checked again."""
    confidence = np.array([confidence], dtype=np.float32)
    masked = np.array([masked]) if masked else np.ones_like(confidence, dtype=bool)
    return Candidates(
        scores=mx.where(mx.array(masked), mx.array(confidence), -mx.inf),
        confidence=mx.array(confidence),
        entropy=mx.array([entropy]) if entropy else 1 - mx.array(confidence),
        masked=mx.array(masked),
        probs=mx.array(np.stack([confidence, 1 - confidence], axis=-1)),
        positions=np.array([positions or range(confidence.shape[1])], dtype=np.int32),
        length=100,
        recheck=mx.array([[one is not None for one in current]]) if current else mx.zeros(confidence.shape, dtype=mx.bool_),
        current=mx.array([[one or 0.0 for one in current]]) if current else mx.array(confidence),
    )


def committed(rule, given):
    return np.flatnonzero(np.array(rule.open().commit(given, np.array([99]), KEY))[0]).tolist()


def test_threshold_takes_what_reaches_tau():
    assert committed(Threshold(0.9), candidates([0.95, 0.5, 0.9, 0.89, 1.0])) == [0, 2, 4]


def test_factor_takes_the_longest_prefix_by_falling_confidence():
    # The bounds 1 - 1/(n+1) are 0.5, 0.667, 0.75, 0.8.
    assert committed(Factor(1.0), candidates([0.7, 0.9, 0.74, 0.1])) == [1, 2]  # 0.9 >= 0.5, 0.74 >= 0.667, 0.7 < 0.75


def test_factor_stops_at_the_first_that_fails():
    # n = 1: 0.6 >= 0.5; n = 2: 0.6 < 0.667; n = 3 is not asked, whatever it is.
    assert committed(Factor(1.0), candidates([0.6, 0.6, 0.6])) == [0]


def test_entropy_bound_sums_the_entropies_that_come_before():
    given = candidates([0.9, 0.9, 0.9, 0.9], entropy=[0.3, 0.04, 0.05, 0.2])
    # By rising entropy 0.04, 0.05, 0.2, 0.3; before them come 0, 0.04, 0.09, 0.29.
    assert np.array(EntropyBound(0.1).passes(given))[0].tolist() == [False, True, True, True]
    assert np.array(EntropyBound(0.05).passes(given))[0].tolist() == [False, True, True, False]


def test_backtrack_remasks_what_lost_more_than_its_share_and_only_so_often():
    state = Backtrack(tau=0.6, fall=0.5, limit=2).open()
    none = [False] * 3

    def step(confidence, current, masked):
        given = candidates(confidence, current=current, masked=masked, positions=[4, 5, 6])
        commit = np.array(state.commit(given, np.array([99]), KEY))[0].tolist()
        return commit, np.array(state.remask(given))[0].tolist()

    assert step([0.8, 0.7, 0.1], None, [True] * 3) == ([True, True, False], none)
    # 4 has half of its 0.8 still, 5 less than half of its 0.7; 6 is the best that is left.
    assert step([0.9, 0.9, 0.3], [0.4, 0.34, None], [False, False, True]) == ([False, False, True], [False, True, False])
    # 5 is committed again with 0.9, and is compared to that from now on.
    assert step([0.9, 0.9, 0.3], [0.8, None, 0.3], [False, True, False]) == ([False, True, False], none)
    assert step([0.9, 0.9, 0.3], [0.8, 0.44, 0.3], [False] * 3) == (none, [False, True, False])
    assert step([0.9, 0.9, 0.3], [0.8, None, 0.3], [False, True, False]) == ([False, True, False], none)
    assert step([0.9, 0.9, 0.3], [0.8, 0.0, 0.3], [False] * 3) == (none, none)  # remasked twice already


def test_stability_waits_until_the_distribution_holds_still():
    state = Stability(tau=0.9, epsilon=0.01, span=2).open()

    def commits(*confidence, positions):
        given = candidates(confidence, positions=positions)
        return np.flatnonzero(np.array(state.commit(given, np.array([99]), KEY))[0]).tolist()

    assert commits(0.99, 0.95, 0.94, positions=[3, 4, 5]) == [0]  # the best alone: nothing is known to be stable
    assert commits(0.95, 0.94, 0.93, positions=[4, 5, 6]) == [0]  # stable for one step; 6 is new
    assert commits(0.94, 0.93, 0.2, positions=[5, 6, 7]) == [0]  # 5 for two steps, 6 for one
    assert commits(0.93, 0.91, 0.2, positions=[6, 7, 8]) == [0]  # 6 for two; 7 moved from 0.2 to 0.91
    assert commits(0.91, 0.2, positions=[7, 8]) == [0]


def test_a_position_that_stability_has_not_seen_before_starts_from_0_whatever_stood_at_its_index():
    state = Stability(tau=0.5, epsilon=0.01, span=1).open()

    def commits(confidence, positions):
        commit = state.commit(candidates(confidence, positions=positions), np.array([99]), KEY)
        return np.array(commit)[0].tolist()

    assert commits([0.9, 0.8], [3, 4]) == [True, False]
    assert commits([0.95, 0.9, 0.8, 0.9], [1, 5, 4, 6]) == [True, False, True, False]  # only 4 was there, with its 0.8
    assert commits([0.95, 0.9, 0.9], [2, 5, 6]) == [True, True, True]


def test_stability_takes_several_once_they_are_stable():
    state = Stability(tau=0.5, epsilon=0.01, span=1).open()
    given = candidates([0.9, 0.8, 0.7, 0.4])
    first, second = (np.array(state.commit(given, np.array([99]), KEY))[0].tolist() for _ in range(2))
    assert first == [True, False, False, False]
    assert second == [True, True, True, False]


@pytest.mark.parametrize("rule", EVERY, ids=repr)
def test_each_takes_the_best_where_nothing_passes_and_nothing_that_is_no_mask(rule):
    given = candidates([0.2, 0.3, 0.99], entropy=[2.0, 1.9, 0.0], masked=[True, True, False])
    assert committed(rule, given)[-1] != 2
    assert 1 in committed(rule, given)


@pytest.mark.parametrize("rule", EVERY, ids=repr)
def test_a_row_without_candidates_commits_nothing(rule):
    assert committed(rule, candidates([0.99, 0.99], masked=[False, False])) == []


def test_rules_are_named_with_their_parameters_and_print_back():
    assert rule_for(GenerationConfig(rule="schedule")) == Schedule(256, 1e-3)
    assert rule_for(GenerationConfig(rule="threshold")) == Threshold(tau=0.9)
    assert rule_for(GenerationConfig(rule="stability:span=2, tau=0.95")) == Stability(0.95, 0.001, 2)
    for spec in describe(RULES):
        GenerationConfig(rule=spec)
    assert describe(RULES)[1] == "threshold:tau=0.9"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "best"}, r"rule must be one of schedule, threshold:tau=0\.9"),
        ({"rule": "threshold:t=1"}, "no parameter 't'; its parameters: tau"),
        ({"rule": "threshold:tau=0.5,tau=0.6"}, "tau is given twice"),
        ({"window": "tree:rows=8, rows=9"}, "rows is given twice"),
        ({"rule": "threshold:tau=2"}, "tau must be a number from 0 to 1"),
        ({"rule": "threshold:tau=x"}, "tau must be a number from 0 to 1"),
        ({"rule": "threshold:tau=nan"}, "tau must be a number from 0 to 1"),
        ({"rule": "stability:span=1.5"}, "span must be a whole number"),
        ({"rule": "schedule:tau=1"}, "its parameters: none"),
        ({"window": "tiny"}, "window must be one of whole, blocks:size=32,stop=1, "),
        ({"window": "sliding:width=0"}, "width must be a whole number from 1"),
        ({"rule": "threshold", "steps": 3}, "rule threshold takes no steps"),
        ({"rule": "threshold", "reference": True}, "reference needs the rule"),
        ({"window": "sliding", "reference": True}, "reference needs the rule"),
    ],
)
def test_what_cannot_work_is_named_with_what_can(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        GenerationConfig(**options)
    assert caught.value.field in options
