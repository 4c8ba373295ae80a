"""What a block-causal model sees of a masked canvas: its own block, and the blocks before it without masks."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import load
from mlx_diffucoder.data import Text
from mlx_diffucoder.decoding.likelihood import every_second, mean_log_probability
from mlx_diffucoder.divergence.forwards import outputs, outputs_by_layer
from mlx_diffucoder.divergence.masking import masked_canvases
from mlx_diffucoder.models.context import hidden_of
from mlx_diffucoder.training.coupled import Pair, Questions, log_pi
from mlx_diffucoder.training.objective import Noised, loss
from mlx_diffucoder.training.policy import Answers

from ..conftest import DATA
from ..decoding.block_oracle import Network, read_weights, softmax

FOLDER = DATA / "stable-diffcoder-a"
MASK, BLOCK = 5, 4
CLEAN = np.random.default_rng(1).integers(8, 700, (2, 18)).astype(np.int32)
MASKED = np.random.default_rng(2).random((2, 18)) < 0.5


@pytest.fixture(scope="module")
def diffcoder():
    return load(FOLDER)


@pytest.fixture(scope="module")
def network():
    return Network(json.loads((FOLDER / "config.json").read_text()), read_weights(FOLDER))


def as_decoding_sees(network, clean, masked):
    """Logits `[L, V]`: each block is forwarded by itself, after those before it without masks."""
    shown, logits = np.where(masked, MASK, clean), []
    for start in range(0, len(clean), BLOCK):
        ids = [*clean[:start].tolist(), *shown[start : start + BLOCK].tolist()]
        logits.append(network(ids, BLOCK)[start:])
    return np.concatenate(logits)


def log_probs_of(network, clean, masked):
    """`[L]`, of the tokens of `clean`."""
    return np.log(softmax(as_decoding_sees(network, clean, masked)))[np.arange(len(clean)), clean]


def test_one_forward_shows_every_block_what_decoding_shows_it(diffcoder, network):
    model, _ = diffcoder
    shown = mx.array(np.where(MASKED, MASK, CLEAN))
    logits = np.array(model.logits(hidden_of(model, shown, mx.array(CLEAN))))
    for row, clean, masked in zip(logits, CLEAN, MASKED, strict=True):
        expected = as_decoding_sees(network, clean, masked)
        assert np.abs(row - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_likelihood_of_an_answer(diffcoder, network):
    model, _ = diffcoder
    ids, none = CLEAN[0].tolist(), mx.zeros(776, dtype=mx.bool_)
    expected = [log_probs_of(network, CLEAN[0], np.isin(np.arange(18), own))[own] for own in every_second(np.arange(5, 18))]
    found = mean_log_probability(model, ids, 5, MASK, none)
    assert found == (pytest.approx(np.concatenate(expected).mean(), abs=1e-4), 36)


def test_the_outputs_that_are_compared_and_calibrated_on(diffcoder, network):
    model, _ = diffcoder
    canvases = masked_canvases([Text(CLEAN[0, :5], CLEAN[0, 5:])], MASK)
    expected = np.concatenate([as_decoding_sees(network, one.clean, one.tokens == MASK)[one.positions] for one in canvases])
    for made in (outputs(model, canvases), outputs_by_layer(lambda: load(FOLDER, lazy=True)[0], canvases)):
        found = np.concatenate([np.array(one) for one in made.logits(64)])
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_loss_to_train_by(diffcoder, network):
    model, _ = diffcoder
    weights = np.random.default_rng(3).uniform(0.1, 2, CLEAN.shape)
    found = loss(model, *Noised.of(CLEAN, MASKED, weights, MASK).arrays())
    each = np.stack([log_probs_of(network, clean, masked) for clean, masked in zip(CLEAN, MASKED, strict=True)])
    assert float(found) == pytest.approx(-(weights * each)[MASKED].sum(), rel=1e-4)


def test_the_log_pi_of_coupled_grpo(diffcoder, network):
    answers = Answers(CLEAN, 6, np.array([12, 9]))
    pair = Pair.draw(np.random.default_rng(0), answers)
    questions = Questions.of(answers, pair, MASK)
    found = np.array(log_pi(diffcoder[0], *questions.arrays()))
    expected = []
    for clean, hidden, first, t, count in zip(CLEAN, answers.hidden, pair.first, pair.t, answers.lengths, strict=True):
        whole = log_probs_of(network, clean, hidden)
        halves = {True: log_probs_of(network, clean, first), False: log_probs_of(network, clean, hidden & ~first)}
        for place in range(6, 6 + count):
            weight = 1 / t if first[place] else 1 / (1 - t)
            expected.append((whole[place] + weight * halves[bool(first[place])][place]) / 2)
    assert np.allclose(found, expected, rtol=1e-4)
