"""pass@k, its interval, and the means over tasks."""

import json
import math

import pytest

from mlx_diffucoder.evaluation import Summary, confidence_interval, pass_at_k

from .programs import result


@pytest.mark.parametrize(
    ("samples", "passed", "k", "expected"),
    [(1, 0, 1, 0), (1, 1, 1, 1), (5, 2, 1, 2 / 5), (5, 2, 2, 1 - 3 / 10), (4, 1, 3, 1 - 1 / 4), (3, 0, 3, 0), (3, 1, 3, 1)],
)
def test_pass_at_k_as_computed_by_hand(samples, passed, k, expected):
    assert pass_at_k(samples, passed, k) == pytest.approx(expected)


def test_pass_at_k_is_the_share_of_subsets_with_one_that_passed():
    for passed in range(201):
        expected = 1 - math.comb(200 - passed, 100) / math.comb(200, 100)
        assert pass_at_k(200, passed, 100) == pytest.approx(expected)


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be_estimated(samples, passed, k):
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(samples, passed, k)


def test_the_interval_is_that_of_a_binomial_and_always_the_same():
    scores = [1.0] * 80 + [0.0] * 20
    low, high = confidence_interval(scores)
    assert (low, high) == confidence_interval(scores)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert low == pytest.approx(0.8 - half, abs=0.02)
    assert high == pytest.approx(0.8 + half, abs=0.02)
    assert confidence_interval([1.0] * 5) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no scores"):
        confidence_interval([])


def test_a_summary_holds_means_over_tasks_and_ratios_of_sums():
    results = [
        result("a", 0),
        result("a", 1, "wrong", nfe=4, positions=100, useful_tokens=0),
        result("b", 0, "timeout", seconds=1.0, peak_memory_bytes=9),
        result("b", 1, "timeout"),
    ]
    report = Summary.of(results, [2]).to_dict()
    assert report["pass@1"] == 0.25
    assert report["pass@2"] == 0.5
    assert (report["tasks"], report["answers"], report["passed"]) == (2, 4, 1)
    assert report["nfe"] == 10 / 4
    assert report["tokens_per_forward"] == 18 / 10
    assert report["positions_per_useful_token"] == 280 / 18
    assert report["useful_tokens_per_second"] == 18 / 2.5
    assert (report["unresolved_masks"], report["peak_memory_bytes"]) == (4, 9)
    assert {kind: count for kind, count in report["failures"].items() if count} == {"wrong": 1, "timeout": 2}


def test_a_summary_of_part_of_a_run_leaves_out_tasks_with_too_few_answers():
    summary = Summary.of([result("a", 0), result("a", 1), result("b", 0, "wrong")], [2])
    assert summary.pass_at == {1: 0.5, 2: 1.0}
    assert Summary.of([], [2]).to_dict()["pass@1"] is None
    json.dumps(Summary.of([]).to_dict(), allow_nan=False)
