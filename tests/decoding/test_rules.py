"""The adaptive rules on five candidates, by hand."""

import itertools
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.choices import RULES, WINDOWS, describe
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.rules.adaptive import EntropyBound, Joint, Threshold
from mlx_diffucoder.decoding.rules.base import Candidates
from mlx_diffucoder.decoding.rules.schedule import Schedule
from mlx_diffucoder.errors import ConfigError

KEY = mx.random.key(0)
EVERY = [Threshold(0.9), Joint(0.9), EntropyBound(0.1)]


def candidates(confidence, *, entropy=None, masked=None):
    """One row of candidates; scores are the confidences."""
    confidence = np.array([confidence], dtype=np.float32)
    masked = np.array([masked]) if masked else np.ones_like(confidence, dtype=bool)
    return Candidates(
        scores=mx.where(mx.array(masked), mx.array(confidence), -mx.inf),
        confidence=mx.array(confidence),
        entropy=mx.array([entropy]) if entropy else 1 - mx.array(confidence),
        masked=mx.array(masked),
        positions=np.array([range(confidence.shape[1])], dtype=np.int32),
        length=100,
    )


def committed(rule, given):
    return np.flatnonzero(np.array(rule.open().commit(given, np.array([99]), KEY))[0]).tolist()


def test_threshold_takes_what_reaches_tau():
    assert committed(Threshold(0.9), candidates([0.95, 0.5, 0.9, 0.89, 1.0])) == [0, 2, 4]


def test_joint_takes_the_leftmost_until_their_product_is_too_small():
    given = candidates([0.95, 0.98, 0.2, 0.97, 0.9, 1.0], masked=[True, True, False, True, True, True])
    # The products are 0.95, 0.931, 0.903 and 0.813; the third one is no mask.
    assert committed(Joint(0.9), given) == [0, 1, 3, 5]  # the last one as the surest of all
    assert np.array(Joint(0.93).passes(given))[0].tolist() == [True, True, True, False, False, False]
    last_first = replace(given, positions=given.positions[:, ::-1])
    assert np.array(Joint(0.82).passes(last_first))[0].tolist() == [False, True, True, True, True, True]


def test_entropy_bound_sums_the_entropies_that_come_before():
    given = candidates([0.9, 0.9, 0.9, 0.9], entropy=[0.3, 0.04, 0.05, 0.2])
    # By rising entropy 0.04, 0.05, 0.2, 0.3; before them come 0, 0.04, 0.09, 0.29.
    assert np.array(EntropyBound(0.1).passes(given))[0].tolist() == [False, True, True, True]
    assert np.array(EntropyBound(0.05).passes(given))[0].tolist() == [False, True, True, False]


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
    assert rule_for(GenerationConfig(rule="entropy-bound: gamma=2")) == EntropyBound(2.0)
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
        ({"rule": "backtrack"}, "rule must be one of schedule"),
        ({"rule": "schedule:tau=1"}, "its parameters: none"),
        ({"window": "tiny"}, "window must be one of whole, blocks:size=32,stop=1, "),
        ({"window": "sliding:width=0"}, "width must be a whole number from 1"),
        ({"rule": "threshold", "steps": 3}, "steps is for the rule schedule, and rule is threshold; leave one out"),
        (
            {"window": "forcing", "steps": 3},
            "steps is for the rule schedule, which the window forcing does not take; leave it out",
        ),
        ({"window": "tree", "eps": 0.1}, "eps is for the rule schedule, which the window tree does not take; leave it out"),
        (
            {"rule": "threshold", "reference": True},
            "reference needs one of the windows whole, block-causal, ahead, forcing, not tr",
        ),
        (
            {"window": "sliding", "reference": True},
            "reference needs one of the windows whole, block-causal, ahead, forcing, not sl",
        ),
        ({"window": "ahead", "reference": True}, "reference needs the rule entropy on the window ahead, not schedule"),
    ],
)
def test_what_cannot_work_is_named_with_what_can(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        GenerationConfig(**options)
    assert caught.value.field in options


def test_of_fields_that_do_not_go_together_the_error_names_one_that_was_given():
    others = ({}, {"steps": 8}, {"eps": 0.1}, {"alg": "origin"}, {"alg_temp": 0.5}, {"threshold": 0.8}, {"block_length": 4})
    for rule, window, other, reference in itertools.product((*RULES, None), (*WINDOWS, None), others, (True, None)):
        given = {"rule": rule, "window": window, "reference": reference, **other}
        given = {name: value for name, value in given.items() if value is not None}
        while given:
            try:
                GenerationConfig(max_tokens=16, **given)
                break
            except ConfigError as error:
                assert error.field in given, error
                del given[error.field]
