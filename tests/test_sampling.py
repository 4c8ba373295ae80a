"""Four-element distributions with answers computed by hand."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.sampling import SCORES, draw, keep_top_k, keep_top_p

KEY = mx.random.key(0)
PROBS = [0.1, 0.5, 0.15, 0.25]
LOGITS = mx.log(mx.array([PROBS]))


def probs_of(**options):
    return draw(LOGITS, GenerationConfig(**options), KEY)[1][0].tolist()


def test_temperature_zero_takes_the_most_probable():
    tokens, probs = draw(LOGITS, GenerationConfig(), KEY)
    assert tokens.tolist() == [1]
    assert probs[0].tolist() == pytest.approx(PROBS)


def test_temperature_sharpens_before_anything_else():
    squares = [p * p for p in PROBS]
    assert probs_of(temperature=0.5) == pytest.approx([s / sum(squares) for s in squares])


def test_top_p_keeps_the_token_that_crosses_the_line():
    assert probs_of(top_p=0.6) == pytest.approx([0, 0.5 / 0.75, 0, 0.25 / 0.75])


def test_top_p_keeps_the_best_token_always():
    assert probs_of(top_p=0.01) == [0, 1, 0, 0]


def test_top_k_keeps_k_and_shapes_the_scores_at_temperature_zero():
    assert probs_of(top_k=2) == pytest.approx([0, 2 / 3, 0, 1 / 3])
    tokens, probs = draw(LOGITS, GenerationConfig(top_k=2), KEY)
    assert SCORES["maskgit_plus"](probs, tokens, KEY).item() == pytest.approx(2 / 3)


def test_top_k_keeps_ties_with_the_last():
    kept = keep_top_k(mx.array([[1.0, 2.0, 1.0, 0.0]]), 2)
    assert (kept > -mx.inf).tolist() == [[True, True, True, False]]


def test_top_k_larger_than_the_vocabulary_keeps_all():
    assert mx.array_equal(keep_top_k(LOGITS, 100), LOGITS)


def test_top_p_comes_before_top_k():
    both = mx.softmax(keep_top_k(keep_top_p(LOGITS, 0.8), 2), axis=-1)
    assert probs_of(top_p=0.8, top_k=2) == pytest.approx(both[0].tolist())


def test_scores_by_hand():
    tokens, probs = draw(LOGITS, GenerationConfig(), KEY)
    assert SCORES["maskgit_plus"](probs, tokens, KEY).item() == pytest.approx(0.5)
    assert SCORES["topk_margin"](probs, tokens, KEY).item() == pytest.approx(0.25)
    assert SCORES["entropy"](probs, tokens, KEY).item() == pytest.approx(sum(p * math.log(p) for p in PROBS), abs=1e-6)


def test_forbidden_ids_have_no_share_and_are_never_drawn():
    logits = mx.where(mx.array([False, True, False, False]), -mx.inf, LOGITS)
    for temperature in (0.0, 1.0, 100.0):
        tokens, probs = draw(mx.repeat(logits, 200, axis=0), GenerationConfig(temperature=temperature), KEY)
        assert 1 not in tokens.tolist()
        assert probs[0, 1].item() == 0
        assert not math.isnan(SCORES["entropy"](probs, tokens, KEY)[0].item())


def test_the_tiniest_temperature_takes_the_most_probable():
    tokens, probs = draw(LOGITS, GenerationConfig(temperature=1e-6), KEY)
    assert tokens.tolist() == [1]
    assert probs[0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.5, "top_p": 0.95}, {"temperature": 2.0, "top_k": 3}])
def test_draws_follow_the_distribution(options):
    """Pearson's chi-square over 40,000 draws; 16.27 is its 0.1 % point at 3 degrees of freedom."""
    draws = 40_000
    tokens, probs = draw(mx.repeat(LOGITS, draws, axis=0), GenerationConfig(**options), mx.random.key(11))
    expected = np.array(probs[0]) * draws
    counts = np.bincount(np.array(tokens), minlength=4)
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    assert ((counts - expected)[seen] ** 2 / expected[seen]).sum() < 16.27


def test_logits_of_half_precision_are_scored_in_float32():
    assert draw(LOGITS.astype(mx.bfloat16), GenerationConfig(), KEY)[1].dtype == mx.float32
