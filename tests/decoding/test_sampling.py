"""Four-element distributions with answers computed by hand."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.decoding.sampling import SCORES, draw, keep_top_k, keep_top_p

KEY = mx.random.key(0)
PROBS = [0.1, 0.5, 0.15, 0.25]
LOGITS = mx.log(mx.array([PROBS]))


def probs_of(**options):
    return draw(LOGITS, GenerationConfig(**options), KEY)[1][0].tolist()


def test_temperature_zero_takes_the_most_probable():
    tokens, probs, _ = draw(LOGITS, GenerationConfig(), KEY)
    assert tokens.tolist() == [1]
    assert probs[0].tolist() == pytest.approx(PROBS)


def test_temperature_sharpens_before_anything_else():
    squares = [p * p for p in PROBS]
    assert probs_of(temperature=0.5) == pytest.approx([s / sum(squares) for s in squares])


def test_top_p_keeps_the_token_that_crosses_the_line():
    assert probs_of(top_p=0.6) == pytest.approx([0, 0.5 / 0.75, 0, 0.25 / 0.75])


def test_top_p_keeps_the_best_token_always():
    assert probs_of(top_p=0.01) == [0, 1, 0, 0]


def test_top_p_keeps_ties_with_the_last_that_stays():
    kept, _ = keep_top_p(mx.log(mx.array([[0.4, 0.2, 0.2, 0.2]])), 0.5)
    assert (kept > -mx.inf).tolist() == [[True, True, True, True]]


def wide(scale, rows=8):
    """Logits over a vocabulary of 40,000 (2,500 blocks of which 512 are looked into), whose ties are many."""
    logits = np.random.default_rng(5).normal(size=(rows, 40_000)) * scale
    return mx.array(np.round(logits, 1).astype(np.float32))


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [1, 3, 5, 9])
def test_a_nucleus_without_a_sort_is_the_sorted_one_or_says_that_it_is_not(scale, top_p):
    logits = wide(scale)
    sorted_one, _ = keep_top_p(logits, top_p)
    partial, complete = keep_top_p(logits, top_p, sort=False)
    for row, (one, other) in enumerate(zip(np.array(sorted_one), np.array(partial), strict=True)):
        assert not complete[row] or (one == other).all()
    assert complete.all().item() == ((scale, top_p) in COMPLETE)


# Where the nucleus of every row above ends inside the part that is sorted.
COMPLETE = {(1, 0.01), (3, 0.01), (3, 0.5), (5, 0.01), (5, 0.5), (5, 0.9), (9, 0.01), (9, 0.5), (9, 0.9), (9, 0.999)}


def test_a_nucleus_is_cut_as_a_plain_loop_cuts_it():
    for row in np.array(wide(5, rows=2)):
        probs = np.exp(row.astype(np.float64))
        order, mass = np.argsort(-probs, kind="stable"), 0.0
        for last in order:
            mass += probs[last] / probs.sum()
            if mass > 0.9:
                break
        kept, _ = keep_top_p(mx.array(row[None]), 0.9, sort=False)
        assert (np.array(kept[0]) > -np.inf).tolist() == (row >= row[last]).tolist()


@pytest.mark.parametrize("top_k", [1, 50, 511, 3000])
def test_top_k_without_a_sort_is_the_sorted_one(top_k):
    logits = wide(3)
    kth = np.sort(np.array(logits), axis=-1)[:, -top_k][:, None]
    assert ((np.array(keep_top_k(logits, top_k)) > -np.inf) == (np.array(logits) >= kth)).all()


def test_top_k_keeps_k_and_shapes_the_scores_at_temperature_zero():
    assert probs_of(top_k=2) == pytest.approx([0, 2 / 3, 0, 1 / 3])
    tokens, probs, _ = draw(LOGITS, GenerationConfig(top_k=2), KEY)
    assert SCORES["maskgit_plus"](probs, tokens, KEY).item() == pytest.approx(2 / 3)


def test_top_k_keeps_ties_with_the_last():
    kept = keep_top_k(mx.array([[1.0, 2.0, 1.0, 0.0]]), 2)
    assert (kept > -mx.inf).tolist() == [[True, True, True, False]]


def test_top_k_larger_than_the_vocabulary_keeps_all():
    assert mx.array_equal(keep_top_k(LOGITS, 100), LOGITS)


def test_top_p_comes_before_top_k():
    both = mx.softmax(keep_top_k(keep_top_p(LOGITS, 0.8)[0], 2), axis=-1)
    assert probs_of(top_p=0.8, top_k=2) == pytest.approx(both[0].tolist())


def test_scores_by_hand():
    tokens, probs, _ = draw(LOGITS, GenerationConfig(), KEY)
    assert SCORES["maskgit_plus"](probs, tokens, KEY).item() == pytest.approx(0.5)
    assert SCORES["topk_margin"](probs, tokens, KEY).item() == pytest.approx(0.25)
    assert SCORES["entropy"](probs, tokens, KEY).item() == pytest.approx(sum(p * math.log(p) for p in PROBS), abs=1e-6)


def test_forbidden_ids_have_no_share_and_are_never_drawn():
    logits = mx.where(mx.array([False, True, False, False]), -mx.inf, LOGITS)
    for temperature in (0.0, 1.0, 100.0):
        tokens, probs, _ = draw(mx.repeat(logits, 200, axis=0), GenerationConfig(temperature=temperature), KEY)
        assert 1 not in tokens.tolist()
        assert probs[0, 1].item() == 0
        assert not math.isnan(SCORES["entropy"](probs, tokens, KEY)[0].item())


def test_the_tiniest_temperature_takes_the_most_probable():
    tokens, probs, _ = draw(LOGITS, GenerationConfig(temperature=1e-6), KEY)
    assert tokens.tolist() == [1]
    assert probs[0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("level", [-30.0, 30.0, 1e33])
def test_equally_probable_tokens_are_drawn_equally_often_at_the_tiniest_temperature(level):
    """Divided by it, logits have no room left for the noise of a draw, unless the largest is 0."""
    logits = mx.full((4_000, 4), level)
    tokens, probs, _ = draw(logits, GenerationConfig(temperature=1e-6), KEY)
    assert probs[0].tolist() == [0.25] * 4
    assert (np.bincount(np.array(tokens), minlength=4) > 800).all()


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.5, "top_p": 0.95}, {"temperature": 2.0, "top_k": 3}])
def test_draws_follow_the_distribution(options):
    """Pearson's chi-square over 40,000 draws; 16.27 is its 0.1 % point at 3 degrees of freedom."""
    draws = 40_000
    tokens, probs, _ = draw(mx.repeat(LOGITS, draws, axis=0), GenerationConfig(**options), mx.random.key(11))
    expected = np.array(probs[0]) * draws
    counts = np.bincount(np.array(tokens), minlength=4)
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    assert ((counts - expected)[seen] ** 2 / expected[seen]).sum() < 16.27


def test_logits_of_half_precision_are_scored_in_float32():
    assert draw(LOGITS.astype(mx.bfloat16), GenerationConfig(), KEY)[1].dtype == mx.float32
