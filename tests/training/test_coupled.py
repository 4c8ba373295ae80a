"""The coupled estimator, against sums written out one token after another."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_diffucoder.training.coupled import Pair, Questions, log_pi
from mlx_diffucoder.training.policy import Answers, clipped_loss, leave_one_out

from .small import small_model

EMPTY = mx.zeros(0)


def answers_of(model, seed=0, N=3, L=20, start=6):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, model.config.vocab_size, (N, L)).astype(np.int32)
    return Answers(tokens, start, rng.integers(4, L - start + 1, N))


def asked(model, seed=0, **sizes):
    answers = answers_of(model, seed, **sizes)
    pair = Pair.draw(np.random.default_rng(seed + 1), answers)
    return answers, pair, Questions.of(answers, pair, model.config.mask_token_id)


def by_hand(model, canvas, place, token):
    logits = np.array(model(mx.array(canvas[None])))[0, place - 1].astype(np.float64)
    return logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def test_each_token_is_masked_exactly_once_by_a_pair_and_the_prompt_never():
    model = small_model()
    for seed in range(20):
        answers, pair, questions = asked(model, seed)
        count = len(answers)
        mask = questions.tokens == model.config.mask_token_id
        whole, first, second = mask[:count], mask[count : 2 * count], mask[2 * count :]
        behind = np.arange(20) >= 6
        assert (whole == behind).all()
        assert (first.astype(int) + second.astype(int) == behind).all()
        assert (questions.tokens[~mask] == np.tile(answers.tokens, (3, 1))[~mask]).all()
        assert ((pair.t >= 0.2) & (pair.t <= 0.8)).all()
        read = questions.paired  # of the flattened canvases, the place asked for
        assert mask.ravel()[read].all()
        assert len(set(read.tolist())) == len(read) == answers.lengths.sum()


def test_a_token_is_hidden_by_the_first_mask_with_probability_t():
    answers = answers_of(small_model(), N=400, L=60)
    pair = Pair.draw(np.random.default_rng(0), answers)
    shares = pair.first[:, answers.start :].mean(axis=1)
    assert np.abs(shares - pair.t).mean() < 0.06
    assert pair.t.mean() == pytest.approx(0.5, abs=0.03)
    assert (pair.t.min(), pair.t.max()) == (pytest.approx(0.2, abs=0.02), pytest.approx(0.8, abs=0.02))


def test_log_pi_is_half_of_the_full_masks_term_and_of_the_term_of_the_mask_that_hides_the_token():
    model = small_model()
    mask_id = model.config.mask_token_id
    answers, pair, questions = asked(model)
    found = iter(np.array(log_pi(model, *questions.arrays())))
    for row, tokens in enumerate(answers.tokens):
        behind = np.arange(len(tokens)) >= answers.start
        for place in range(answers.start, answers.start + answers.lengths[row]):
            first = pair.first[row] if pair.first[row, place] else behind & ~pair.first[row]
            t = pair.t[row] if pair.first[row, place] else 1 - pair.t[row]
            whole = by_hand(model, np.where(behind, mask_id, tokens), place, tokens[place])
            covered = by_hand(model, np.where(first, mask_id, tokens), place, tokens[place])
            assert next(found) == pytest.approx((whole + covered / t) / 2, rel=1e-4)
    assert next(found, None) is None


def test_an_advantage_is_the_reward_less_the_mean_of_the_others():
    # 1 - (0 + 0.1 + 1.1)/3, 0 - (1 + 0.1 + 1.1)/3, 0.1 - (1 + 0 + 1.1)/3, 1.1 - (1 + 0 + 0.1)/3
    assert leave_one_out(np.array([1, 0, 0.1, 1.1])) == pytest.approx([0.6, -2.2 / 3, -0.6, 2.2 / 3])
    assert leave_one_out(np.array([1.0, 0.0])) == pytest.approx([1, -1])
    for size in range(2, 12):
        assert (leave_one_out(np.full(size, 0.1)) == 0).all()  # exactly: such a group is left out


def loss_of(model, questions, advantages, old=EMPTY, reference=EMPTY, clip_ratio=0.2, kl=0.0):
    answers = len(advantages)
    lengths = np.bincount(questions.owner)
    shares = mx.array((1 / (answers * lengths[questions.owner])).astype(np.float32))
    given = mx.array(advantages[questions.owner].astype(np.float32))

    def loss(*arrays):
        return clipped_loss(log_pi(model, *arrays), old, reference, given, shares, clip_ratio=clip_ratio, kl=kl)

    return loss, questions.arrays(), shares, given


def flat(gradient):
    from mlx.utils import tree_flatten

    return mx.concatenate([value.reshape(-1) for _, value in tree_flatten(gradient)])


def test_at_the_first_step_the_ratio_is_1_and_the_gradient_is_the_policy_gradient():
    model = small_model()
    _, _, questions = asked(model)
    advantages = np.array([1.0, -0.5, 0.3])
    loss, arrays, shares, given = loss_of(model, questions, advantages)
    value, found = nn.value_and_grad(model, loss)(*arrays)
    assert float(value) == pytest.approx(-advantages.mean(), rel=1e-5)  # every ratio is 1

    def policy(*arrays):
        return -(shares * given * log_pi(model, *arrays)).sum()

    _, expected = nn.value_and_grad(model, policy)(*arrays)
    assert mx.allclose(flat(found), flat(expected), rtol=1e-4, atol=1e-7)
    assert float(mx.abs(flat(expected)).max()) > 1e-3


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_the_gradient_agrees_with_finite_differences(kl):
    model, other = small_model(), small_model(1)
    _, _, questions = asked(model)
    # Old weights a little away, so that some ratios are inside of the clip and some outside.
    now = log_pi(model, *questions.arrays())
    old = now + 0.3 * mx.array(np.random.default_rng(0).standard_normal(now.size).astype(np.float32))
    reference = log_pi(other, *questions.arrays())
    loss, arrays, *_ = loss_of(model, questions, np.array([1.0, -0.5, 0.3]), old, reference, 0.4, kl)
    _, gradient = nn.value_and_grad(model, loss)(*arrays)
    for module, found in (
        (model.lm_head, gradient["lm_head"]["weight"]),
        (model.layers[0].mlp.up_proj, gradient["model"]["layers"][0]["mlp"]["up_proj"]["weight"]),
    ):
        weight, size = module.weight, mx.linalg.norm(found)
        values = []
        for step in (2e-3, -2e-3):
            module.weight = weight + step * found / size
            values.append(float(loss(*arrays)))
        module.weight = weight
        assert (values[0] - values[1]) / 4e-3 == pytest.approx(float(size), rel=3e-2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "moves"),
    [
        (1.5, 1.0, 1.2, False),  # already far more probable: no further
        (1.5, -1.0, -1.5, True),
        (0.5, 1.0, 0.5, True),
        (0.5, -1.0, -0.8, False),
        (1.1, 1.0, 1.1, True),
    ],
)
def test_a_ratio_counts_only_as_far_as_the_clip_where_that_is_no_worse(ratio, advantage, gain, moves):
    def loss(now):
        return clipped_loss(now, mx.zeros(1), EMPTY, mx.array([advantage]), mx.array([1.0]), clip_ratio=0.2, kl=0.0)

    value, slope = mx.value_and_grad(loss)(mx.log(mx.array([ratio])))
    assert float(value) == pytest.approx(-gain, rel=1e-5)
    assert (float(slope[0]) != 0) == moves


def test_the_kl_is_nothing_at_the_reference_and_grows_away_from_it():
    def kl(now):
        return float(
            clipped_loss(mx.array([now]), mx.array([now]), mx.array([-1.0]), mx.zeros(1), mx.ones(1), clip_ratio=0.2, kl=1.0)
        )

    assert kl(-1.0) == 0
    assert kl(-2.0) == pytest.approx(np.exp(1) - 2, rel=1e-5)
    assert kl(0.0) == pytest.approx(np.exp(-1), rel=1e-5)
    assert np.isfinite(kl(-500.0))


def test_probabilities_that_are_worlds_apart_leave_gradients_that_are_numbers():
    def loss(now):
        return clipped_loss(
            now, mx.array([-900.0, 900.0]), mx.array([900.0, -900.0]), mx.array([1.0, -1.0]), mx.ones(2), clip_ratio=0.2, kl=0.1
        )

    value, slope = mx.value_and_grad(loss)(mx.zeros(2))
    assert np.isfinite(float(value))
    assert np.isfinite(np.array(slope)).all()
