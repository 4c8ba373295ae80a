"""The coupled estimator on a trained model, against one with independent masks."""

import mlx.core as mx
import numpy as np
import pytest

from bench.studies.estimator import MEASURES, Moments, answer_of, measure, term
from mlx_diffucoder import load
from mlx_diffucoder.training.coupled import Pair, Questions, log_pi
from mlx_diffucoder.training.policy import Answers

from ..conftest import DATA

SOLVED = (
    ("Write a function f(nums) that returns the sum of nums.", "def f(nums):\n    return sum(nums)\n"),
    ("Write a function g(s) that returns the string s reversed.", "def g(s):\n    return s[::-1]\n"),
)


@pytest.fixture(scope="module")
def pocket():
    return load(DATA / "pocket-1", dtype="float32")


@pytest.fixture(scope="module")
def answers(pocket):
    return [answer_of(pocket[1], *one, 32) for one in SOLVED]


@pytest.mark.slow
def test_coupled_masks_vary_less_than_independent_ones(pocket, answers):
    network, tokenizer = pocket
    report = measure(network, tokenizer.mask_id, answers, times=2, draws=4, gradients=False)
    for name in ("token", "answer"):
        assert report["coupled"][name] < 0.9 * report["independent"][name], name


@pytest.mark.slow
def test_their_gradient_varies_less_too(pocket, answers):
    network, tokenizer = pocket
    report = measure(network, tokenizer.mask_id, answers, times=4, draws=8)
    for name in MEASURES:
        assert report["coupled"][name] < report["independent"][name], name


def test_what_is_measured_is_what_is_trained_with(pocket, answers):
    """The terms of the three canvases are the estimate."""
    network, tokenizer = pocket
    answer: Answers = answers[0]
    pair = Pair.draw(np.random.default_rng(3), answer)
    trained = log_pi(network, *Questions.of(answer, pair, tokenizer.mask_id).arrays())
    masks = ((answer.hidden, 1), (pair.first, pair.t[0]), (answer.hidden & ~pair.first, 1 - pair.t[0]))
    measured = sum(
        term(
            network,
            answer,
            mx.array(np.where(mask, np.int32(tokenizer.mask_id), answer.tokens)),
            mx.array((mask[answer.scored] / t).astype(np.float32)),
        )
        for mask, t in masks
    )
    assert mx.allclose(trained, measured, atol=1e-4)


def test_moments_are_the_variances_of_the_sum():
    drawn = np.random.default_rng(0).standard_normal((50, 2, 3)).astype(np.float32)
    drawn[:, 1] -= 0.5 * drawn[:, 0]
    moments = Moments()
    for first, second in drawn:
        moments.add(mx.array(first), mx.array(second))
    assert moments.coupled == pytest.approx(drawn.sum(axis=1).var(axis=0, ddof=1).sum(), rel=1e-4)
    assert moments.independent == pytest.approx(drawn.var(axis=0, ddof=1).sum(), rel=1e-4)
    assert moments.coupled < moments.independent
