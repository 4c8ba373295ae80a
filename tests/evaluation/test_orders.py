"""The two orders that `eval --compare-orders` compares."""

import pytest

from mlx_diffucoder import GenerationConfig, generate
from mlx_diffucoder.evaluation.orders import CONFIDENCE, Difference, left_to_right

from .programs import result

PROMPT = [754, 64, 82, 374, 83, 198]


def test_only_answers_that_both_runs_have_are_compared_and_tasks_count_alike():
    one = [result("a", 0), result("a", 1), result("b", 0, "wrong"), result("c", 0), result("d", 0)]
    other = [result("a", 0), result("a", 1, "wrong"), result("b", 0), result("c", 0), result("e", 0)]
    difference = Difference.of(one, other)
    assert (difference.both, difference.only_left_to_right, difference.only_confidence, difference.neither) == (2, 1, 1, 0)
    assert difference.points == pytest.approx((0.5 - 1 + 0) / 3)
    assert difference.interval == (-1, 0.5)
    nothing = Difference.of(one, [])
    assert (nothing.both, nothing.points, nothing.interval) == (0, None, None)


@pytest.mark.parametrize(
    "fields",
    [{}, CONFIDENCE, {"reference": True}, {"steps": 4, "alg_temp": 0.5}, {"alg": "origin"}, {"window": "blocks-dual:size=4"}],
)
@pytest.mark.parametrize("shift", [0, 1])
def test_every_configuration_can_be_decoded_from_left_to_right(fields, shift, dream_b):
    config = left_to_right(GenerationConfig(max_tokens=8, seed=3, **fields), shift)
    assert (config.rule, config.max_tokens, config.seed) == ("leftmost", 8, 3)
    assert config.window.startswith("tree" if shift else "sliding:width=1,")
    generate(*dream_b, PROMPT, config)


def test_the_rows_of_a_tree_stay():
    assert left_to_right(GenerationConfig(window="tree:rows=8"), 1).window == "tree:rows=8"
