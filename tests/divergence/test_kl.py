"""How far two networks are from each other: every measure against a slow plain one, and by hand."""

from itertools import combinations
from math import exp, log

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffucoder.divergence import kl as kl_module
from mlx_diffucoder.divergence.forwards import Outputs
from mlx_diffucoder.divergence.kl import Divergence, NotANumber, commit_order, readings
from mlx_diffucoder.divergence.masking import Masked
from mlx_diffucoder.statistics import order_agreement

LN2 = log(2)


def canvas(targets, text=0, ratio=1.0):
    """A canvas of `targets` behind one known token, all masked."""
    count = len(targets)
    tokens = np.array([0] + [9] * count, dtype=np.int32)
    return Masked(text, ratio, tokens, np.arange(1, count + 1, dtype=np.int32), np.array(targets, dtype=np.int32))


def given_logits(*pieces):
    """Outputs whose rows are the logits themselves."""
    return Outputs(tuple(mx.array(np.array(piece, dtype=np.float32)) for piece in pieces), lambda rows: rows)


ALLOWED = mx.array([False] * 4)


def test_four_elements_by_hand():
    p, q = [1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 4, 1 / 4, 1 / 8, 3 / 8]
    a = given_logits([np.log(p), np.log(q)])
    b = given_logits([np.log(q), np.log(q)])
    (reading,) = readings(a, b, [canvas([0, 3])], ALLOWED)
    # 1/2 ln 2 + 0 + 0 + 1/8 ln 1/3
    assert reading.kl == pytest.approx([LN2 / 2 - log(3) / 8, 0], abs=1e-6)
    assert reading.same.tolist() == [False, True]
    assert reading.nll == pytest.approx([LN2, -log(3 / 8)], abs=1e-6)
    assert reading.other_nll == pytest.approx([2 * LN2, -log(3 / 8)], abs=1e-6)
    # H(p) = 7/4 ln 2 = 1.21 is below H(q) = 1.32: a commits the first first, as b does, where they tie.
    assert (reading.order, reading.first) == (1.0, True)
    mean = Divergence.of([reading])
    assert mean.kl == pytest.approx((LN2 / 2 - log(3) / 8) / 2, abs=1e-6)
    assert mean.top1 == 0.5
    assert mean.perplexity == pytest.approx((2 * 8 / 3) ** 0.5, abs=1e-5)
    assert mean.other_perplexity == pytest.approx((4 * 8 / 3) ** 0.5, abs=1e-5)


def test_ids_that_may_not_be_generated_have_no_probability():
    half = np.log([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    a, b = given_logits([[*half, 50.0]]), given_logits([[*half, -50.0]])
    (reading,) = readings(a, b, [canvas([1])], mx.array([False] * 4 + [True]))
    assert reading.kl == pytest.approx([0], abs=1e-6)
    assert reading.nll == pytest.approx([2 * LN2], abs=1e-6)
    assert reading.same.tolist() == [True]


def slow_reading(a, b, canvas, allowed):
    """Every measure of one canvas in plain loops and float64."""

    def distribution(logits):
        weights = {id: exp(logits[id] - max(logits)) for id in allowed}
        return {id: weight / sum(weights.values()) for id, weight in weights.items()}

    def sooner(entropies, i, j):
        return entropies[i] < entropies[j] or (entropies[i] == entropies[j] and i < j)

    p, q = [distribution(row) for row in a], [distribution(row) for row in b]
    kl = [sum(x[id] * log(x[id] / y[id]) for id in allowed) for x, y in zip(p, q, strict=True)]
    same = [max(allowed, key=x.get) == max(allowed, key=y.get) for x, y in zip(p, q, strict=True)]
    nll, other_nll = ([-log(x[t]) for x, t in zip(each, canvas.targets.tolist(), strict=True)] for each in (p, q))
    h, g = ([-sum(x[id] * log(x[id] + 1e-10) for id in allowed) for x in each] for each in (p, q))
    pairs = [sooner(h, i, j) == sooner(g, i, j) for i, j in combinations(range(len(a)), 2)]
    return kl, same, nll, other_nll, sum(pairs) / len(pairs) if pairs else None, h.index(min(h)) == g.index(min(g))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_readings_equal_slow_ones_however_they_are_cut(monkeypatch, chunk):
    monkeypatch.setattr(kl_module, "CHUNK_BYTES", 4 * 11 * chunk)
    rng = np.random.default_rng(0)
    allowed = [0, 1, 2, 3, 5, 6, 7, 10]
    forbidden = mx.array([id not in allowed for id in range(11)])
    canvases = [canvas(rng.choice(allowed, size), text) for text, size in enumerate([4, 1, 7, 2])]
    a = rng.normal(scale=2, size=(14, 11)).astype(np.float32)
    b = (a + rng.normal(scale=0.7, size=a.shape)).astype(np.float32)
    found = readings(given_logits(a[:5], a[5:]), given_logits(b[:5], b[5:]), canvases, forbidden)
    start = 0
    for reading, own in zip(found, canvases, strict=True):
        end = start + len(own.positions)
        kl, same, nll, other_nll, order, first = slow_reading(a[start:end].tolist(), b[start:end].tolist(), own, allowed)
        start = end
        assert reading.canvas is own
        assert reading.kl == pytest.approx(kl, abs=1e-5)
        assert reading.same.tolist() == same
        assert reading.nll == pytest.approx(nll, abs=1e-5)
        assert reading.other_nll == pytest.approx(other_nll, abs=1e-5)
        assert reading.order == (None if order is None else pytest.approx(order))
        assert reading.first == first
    assert any(reading.order not in (None, 1.0) for reading in found)
    assert not all(reading.same.all() for reading in found)


def test_a_tiny_divergence_is_told_from_none():
    rng = np.random.default_rng(3)
    a = rng.normal(scale=4, size=(50, 3000)).astype(np.float32) + 20
    b = (a + rng.normal(scale=1e-3, size=a.shape)).astype(np.float32)
    canvases = [canvas([0] * 50)]
    (reading,) = readings(given_logits(a), given_logits(b), canvases, mx.array([False] * 3000))
    log_p, log_q = (x - x.max(1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (log_p, log_q))
    wanted = (np.exp(log_p) * (log_p - log_q)).sum(1)
    assert 1e-8 < wanted.min() < wanted.max() < 1e-6
    assert reading.kl == pytest.approx(wanted, abs=1.5e-7)
    assert reading.kl.mean() == pytest.approx(wanted.mean(), rel=0.03)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_order_agreement_counts_the_pairs(scores):
    first, second = (np.array(column, dtype=np.float32) for column in zip(*scores, strict=True))

    def sooner(score, i, j):
        return score[i] > score[j] or (score[i] == score[j] and i < j)

    pairs = [sooner(first, i, j) == sooner(second, i, j) for i, j in combinations(range(len(scores)), 2)]
    wanted = sum(pairs) / len(pairs) if pairs else None
    steps = [np.argsort(commit_order(score)) for score in (first, second)]
    assert order_agreement(*steps) == (None if wanted is None else pytest.approx(wanted))


def test_equal_scores_are_committed_from_the_left_as_the_decoder_does():
    assert commit_order(np.array([-1.0, -0.5, -1.0, -0.5])).tolist() == [1, 3, 0, 2]


def test_opposite_orders_agree_on_nothing():
    assert order_agreement(np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0])) == 0.0


def test_means_are_over_positions_and_for_the_commits_over_canvases():
    certain, even = [9.0, 0, 0, 0], [0.0, 0, 0, 0]
    a = given_logits([certain, even, even], [even])
    b = given_logits([certain, even, even], [certain])
    mean = Divergence.of(readings(a, b, [canvas([1, 1, 1]), canvas([2], text=1)], ALLOWED))
    kl = sum(0.25 * log(0.25 / (x / (exp(9) + 3))) for x in (exp(9), 1, 1, 1))
    assert (mean.canvases, mean.positions) == (2, 4)
    assert mean.kl == pytest.approx(kl / 4, rel=1e-5)
    assert mean.order == 1.0  # the canvas with one mask has no order
    assert mean.kl_interval[0] == pytest.approx(0, abs=1e-6)  # both draws may be of the first text
    assert mean.kl_interval[1] == pytest.approx(kl, rel=1e-5)  # or of the second


def test_without_two_masks_anywhere_there_is_no_order():
    a = given_logits([[1.0, 0, 0, 0]])
    mean = Divergence.of(readings(a, a, [canvas([0])], ALLOWED))
    assert (mean.order, mean.order_interval, mean.first) == (None, None, 1.0)


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_refused(reference, bad):
    good, broken = given_logits([[0.0, 1, 2, 3]]), given_logits([[0.0, 1, bad, 3]])
    pair = (broken, good) if reference else (good, broken)
    with pytest.raises(NotANumber) as caught:
        readings(*pair, [canvas([0])], ALLOWED)
    assert caught.value.reference is reference
