"""The objective, against sums written out one token after another."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_diffucoder.training.objective import LEAST_T, Noised, draw_masks, loss, mask_from, timesteps
from mlx_diffucoder.training.recompute import recompute_layers

from .small import small_model


def noised(model, seed=0, B=3, L=20, prompt=6):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, model.config.vocab_size, (B, L)).astype(np.int32)
    learnt = np.arange(L)[None].repeat(B, 0) >= prompt
    t = timesteps(rng, B)
    masked = draw_masks(rng, learnt, t)
    weights = np.broadcast_to(1 / (t[:, None] * int(learnt.sum())), tokens.shape)
    return tokens, masked, t, Noised.of(tokens, masked, weights, model.config.mask_token_id)


def test_the_loss_is_the_weighted_sum_over_masked_tokens_read_one_row_to_the_left():
    model = small_model()
    tokens, masked, t, batch = noised(model)
    expected = 0.0
    for row in range(len(tokens)):
        canvas = np.where(masked[row], model.config.mask_token_id, tokens[row])
        logits = np.array(model(mx.array(canvas[None])))[0].astype(np.float64)
        for place in np.flatnonzero(masked[row]):
            read = logits[place - 1]
            entropy = np.log(np.exp(read - read.max()).sum()) + read.max() - read[tokens[row, place]]
            expected += entropy / t[row]
    expected /= tokens.shape[0] * (tokens.shape[1] - 6)
    assert float(loss(model, *batch.arrays())) == pytest.approx(expected, rel=1e-5)


def test_the_causal_loss_is_that_of_each_token_after_those_before_it():
    model = small_model()
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, model.config.vocab_size, (2, 12)).astype(np.int32)
    learnt = np.zeros((2, 12), dtype=bool)
    learnt[0, 4:9] = learnt[1, 7:12] = True
    expected = 0.0
    for row, place in zip(*np.nonzero(learnt), strict=True):
        before = mx.array(tokens[row : row + 1, :place])  # what is behind is not there
        read = np.array(model(before, mask=mx.tril(mx.ones((place, place), dtype=mx.bool_))))[0, -1].astype(np.float64)
        expected += np.log(np.exp(read - read.max()).sum()) + read.max() - read[tokens[row, place]]
    batch = Noised.left_to_right(tokens, learnt, 10)
    assert float(loss(model, *batch.arrays())) == pytest.approx(expected / 10, rel=1e-5)
    assert (batch.tokens == tokens).all()


def test_from_left_to_right_behind_a_prompt_prompt_and_masks_are_seen_by_all_rows_and_the_answer_from_behind_alone():
    model = small_model()
    mask = model.config.mask_token_id
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, model.config.vocab_size, (2, 12)).astype(np.int32)
    spans = ((4, 9), (7, 12))  # the second has nothing behind it
    learnt = np.zeros((2, 12), dtype=bool)
    expected = 0.0
    for row, (first, end) in enumerate(spans):
        learnt[row, first:end] = True
        seen = [[at < first or at >= end or at <= asking for at in range(12)] for asking in range(12)]
        canvas = mx.array([[mask if at >= end else int(tokens[row, at]) for at in range(12)]])
        logits = np.array(model(canvas, mask=mx.array(seen)))[0].astype(np.float64)
        for place in range(first, end):
            read = logits[place - 1]
            expected += np.log(np.exp(read - read.max()).sum()) + read.max() - read[tokens[row, place]]
    batch = Noised.after_prompts(tokens, learnt, mask, 10)
    assert float(loss(model, *batch.arrays())) == pytest.approx(expected / 10, rel=1e-5)


def test_behind_a_prefix_all_is_masked_and_the_losses_count_less_the_farther_they_are():
    masked, weights = mask_from(5, 8, 40)
    assert masked.tolist() == [False] * 5 + [True] * 35
    assert weights[5] == pytest.approx(8 * 0.3)
    assert weights[6:] / weights[5:-1] == pytest.approx(np.full(34, 0.7))
    assert weights[masked].sum() == pytest.approx(8, rel=1e-4)


def test_smoothing_spreads_targets_over_all_tokens_the_more_the_more_masks_stand_before_them():
    model = small_model()
    mask, vocabulary = model.config.mask_token_id, model.config.vocab_size
    tokens = np.random.default_rng(0).integers(5, vocabulary, (2, 10)).astype(np.int32)
    masked = np.zeros((2, 10), dtype=bool)
    masked[0, 4:8] = masked[1, 2] = masked[1, 8:] = True
    spread = {(0, 4): 0.0, (0, 5): 0.1, (0, 6): 0.15, (0, 7): 0.175, (1, 2): 0.0, (1, 8): 0.0, (1, 9): 0.1}
    expected = 0.0
    for (row, place), share in spread.items():
        canvas = np.where(masked[row], mask, tokens[row])
        read = np.array(model(mx.array(canvas[None])))[0, place - 1].astype(np.float64)
        entropies = np.log(np.exp(read).sum()) - read
        expected += (1 - share) * entropies[tokens[row, place]] + share * entropies.mean()
    batch = Noised.of(tokens, masked, np.ones(tokens.shape), mask, smoothing=0.2)
    assert float(loss(model, *batch.arrays())) == pytest.approx(expected, rel=1e-5)
    recompute_layers(model)
    assert float(loss(model, *batch.arrays())) == pytest.approx(expected, rel=1e-5)
    assert Noised.of(tokens, masked, np.ones(tokens.shape), mask).spread.size == 0


def test_the_gradient_agrees_with_finite_differences():
    model = small_model()
    *_, batch = noised(model)
    arrays = batch.arrays()
    value, gradient = nn.value_and_grad(model, lambda *a: loss(model, *a))(*arrays)
    for module, found in (
        (model.lm_head, gradient["lm_head"]["weight"]),
        (model.layers[0].mlp.up_proj, gradient["model"]["layers"][0]["mlp"]["up_proj"]["weight"]),
    ):
        weight = module.weight
        direction = found / mx.linalg.norm(found)
        values = []
        for step in (1e-2, -1e-2):
            module.weight = weight + step * direction
            values.append(float(loss(model, *arrays)))
        module.weight = weight
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(mx.linalg.norm(found)), rel=5e-3)
    assert float(value) > 0


def test_prompts_are_never_masked_and_known_tokens_stay():
    model = small_model()
    tokens, masked, _, batch = noised(model)
    assert not masked[:, :6].any()
    assert (batch.tokens[~masked] == tokens[~masked]).all()
    assert (batch.tokens[masked] == model.config.mask_token_id).all()


def test_rows_that_fill_up_weigh_nothing():
    model = small_model()
    *_, batch = noised(model)
    real = int((batch.weights > 0).sum())
    assert len(batch.positions) % 64 == 0
    assert (batch.weights[real:] == 0).all()
    tokens, clean, rows, targets, weights, *others = batch.arrays()
    assert float(loss(model, tokens, clean, rows[:real], targets[:real], weights[:real], *others)) == pytest.approx(
        float(loss(model, tokens, clean, rows, targets, weights, *others)), rel=1e-6
    )


def test_each_token_is_masked_with_probability_t_and_the_weights_make_that_even():
    """The mean of masked · 1/t over many draws is 1 for every token, whatever t was."""
    rng = np.random.default_rng(0)
    learnt = np.ones((4, 50), dtype=bool)
    total = np.zeros(learnt.shape)
    draws = 4000
    for _ in range(draws):
        t = timesteps(rng, 4, 0.05)
        total += draw_masks(rng, learnt, t) / t[:, None]
    assert total.mean() / draws == pytest.approx(1, abs=0.01)
    assert np.abs(total / draws - 1).max() < 0.25


def test_timesteps_stand_in_equal_parts_of_the_interval():
    rng = np.random.default_rng(0)
    drawn = np.stack([timesteps(rng, 8) for _ in range(2000)])
    assert drawn.min() >= LEAST_T
    assert drawn.max() <= 1
    parts = np.floor((np.sort(drawn, axis=1) - LEAST_T) / (1 - LEAST_T) * 8 - 1e-9)
    assert (parts == np.arange(8)).all()
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.02)  # in any order: the first is as any other
    assert drawn.mean(axis=1).std() < drawn[:, 0].std() / 8**0.5 / 2  # together they vary less than drawn alone


def test_recomputing_gives_the_same_loss_and_gradients():
    plain, twice = small_model(), small_model()
    recompute_layers(twice)
    *_, batch = noised(plain, L=90, B=8)
    (a, one), (b, two) = (
        nn.value_and_grad(model, lambda *arrays, model=model: loss(model, *arrays))(*batch.arrays()) for model in (plain, twice)
    )
    assert float(a) == pytest.approx(float(b), rel=1e-6)
    from mlx.utils import tree_flatten

    for (name, x), (other, y) in zip(tree_flatten(one), tree_flatten(two), strict=True):
        assert name == other
        assert mx.allclose(x, y, rtol=1e-3, atol=1e-5), name
