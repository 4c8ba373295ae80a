"""Log π from left to right in one forward, against one forward a position and against the decoder's own scores."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.models.base import ModelConfig
from mlx_diffucoder.models.dream import DREAM
from mlx_diffucoder.models.llada import LLADA
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.training.left_to_right import LeftToRight
from mlx_diffucoder.training.policy import Answers

from .small import SMALL

MASK, START, LENGTH = 1, 5, 17


def model_of(family):
    mx.random.seed(0)
    model = DiffusionModel(ModelConfig(vocab_size=40, mask_token_id=MASK, **SMALL), family)
    mx.eval(model.parameters())
    return model


class Kept:
    """A cache that keeps the keys and values of the first `count` tokens."""

    def __init__(self):
        self.layers, self.seen = {}, {}

    def update(self, layer, keys, values):
        before = self.layers.get(layer, (keys[:, :, :0], values[:, :, :0]))
        self.seen[layer] = tuple(mx.concatenate(pair, axis=2) for pair in zip(before, (keys, values), strict=True))
        return self.seen[layer]

    def keep(self, count):
        self.layers = {layer: tuple(one[:, :, :count] for one in pair) for layer, pair in self.seen.items()}


def by_steps(model, tokens, every, masks):
    """Log-probabilities `[L]` of an answer's tokens: each step forwards its tokens, of which it knows one, and the masks."""
    cache, found = Kept(), []
    for first in range(START, LENGTH, every):
        known = np.arange(first - 1 if first > START else 0, min(first + every, LENGTH) - 1)
        at = np.arange(first, min(first + masks, LENGTH))
        ids = np.concatenate([tokens[known], np.full(len(at), MASK)])
        before = known[0]
        seen = np.ones((len(ids), before + len(ids)), dtype=bool)
        for row, position in enumerate(known):
            seen[row, before : before + len(known)] = known <= max(position, START - 1)
            seen[row, before + len(known) :] = at > position
        seen[len(known) :, before : before + len(known)] = known < first
        positions = np.concatenate([known, at])[None]
        logits = model(mx.array(ids[None]), positions=mx.array(positions), mask=mx.array(seen), kv=cache)[0]
        logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for position in range(first, min(first + every, LENGTH)):
            row = list(known).index(position - 1) if model.shift else len(known)
            found.append(float(logits[row, int(tokens[position])]))
        cache.keep(before + len(known))
    return np.array(found)


@pytest.mark.parametrize(
    ("family", "every", "masks"), [(DREAM, 1, 20), (LLADA, 1, 20), (DREAM, 1, 4), (LLADA, 1, 4), (DREAM, 5, 6)]
)
def test_one_forward_gives_what_a_forward_a_position_gives(family, every, masks):
    model = model_of(family)
    tokens = np.random.default_rng(0).integers(5, 40, (3, LENGTH)).astype(np.int32)
    answers = Answers(tokens, START, np.array([12, 4, 9]))
    likelihood = LeftToRight(MASK, model.shift, every, masks)
    asked = likelihood.ask(answers, np.random.default_rng(0))
    found = np.array(likelihood.log_pi(model, *asked.arrays()))
    expected = [by_steps(model, row, every, masks)[:count] for row, count in zip(tokens, answers.lengths, strict=True)]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-6)
    assert asked.owner.tolist() == [0] * 12 + [1] * 4 + [2] * 9
    _, length, read = likelihood.rows(START, LENGTH - START)
    assert length == asked.tokens.shape[1] and read * 3 >= len(found)  # what the memory is computed from


@pytest.mark.parametrize("family", [DREAM, LLADA])
def test_a_token_is_as_probable_as_the_decoder_found_it_when_it_wrote_from_left_to_right(family):
    model = model_of(family)
    prompt = np.random.default_rng(1).integers(5, 40, START).tolist()
    canvas = Canvas.of(prompt, LENGTH - START, mask_id=MASK, pad_id=0, end_ids=frozenset())
    config = GenerationConfig(rule="leftmost", window="sliding:width=64,suffix=0", alg="maskgit_plus")
    steps = [step for (step,) in denoise(model, [canvas], rule_for(config), window_for(config), config)]
    assert [step.committed.tolist() for step in steps] == [[at] for at in range(START, LENGTH)]
    likelihood = LeftToRight(MASK, model.shift, 1, LENGTH)
    asked = likelihood.ask(Answers(steps[-1].tokens[None], START, np.array([LENGTH - START])), np.random.default_rng(0))
    found = np.exp(np.array(likelihood.log_pi(model, *asked.arrays())))
    np.testing.assert_allclose(found, [float(step.scores[0]) for step in steps], rtol=1e-4)
