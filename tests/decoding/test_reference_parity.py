"""The reference decoder's own answers, in float32, on two untrained checkpoints."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, stream_batch
from mlx_diffucoder.decoding.sampling import SCORES, draw
from mlx_diffucoder.models.transformer import left_padded

from ..conftest import DATA

CASES = json.loads((DATA / "dream-a" / "expected.json").read_text())["cases"]
# How the recorded truncations were made.
FILTERS = {"plain": {}, "top_p": {"top_p": 0.9}, "top_k": {"top_k": 20}, "both": {"top_p": 0.9, "top_k": 20}}


@pytest.fixture(scope="module")
def expected(checkpoint):
    return mx.load(str(checkpoint / "expected.safetensors"))


def assert_close(logits, reference, seen=1.0):
    error = mx.abs((logits - reference) * seen).max().item()
    assert error <= 1e-4 * mx.abs(reference * seen).max().item()


def test_logits_of_a_whole_canvas(loaded, expected):
    model, _ = loaded
    assert_close(model(expected["forward.input_ids"]), expected["forward.logits"])


def test_logits_of_left_padded_rows(loaded, expected):
    model, _ = loaded
    real = expected["padded.attention_mask"]
    padding = (real == 0).sum(axis=1)
    assert padding.max().item() > 0
    tokens = expected["padded.input_ids"]
    positions, mask = left_padded(padding, tokens.shape[1])
    logits = model(tokens, positions=positions, mask=mask)
    assert_close(logits, expected["padded.logits_unpadded_only"], real[..., None])


@pytest.mark.parametrize("name", FILTERS)
def test_scores_and_tokens_of_every_filter(expected, name):
    logits = expected["sampling.logits"]
    tokens, probs, _ = draw(logits, GenerationConfig(**FILTERS[name]), mx.random.key(0))
    assert tokens.tolist() == expected[f"sampling.{name}.tokens"].tolist()
    for alg in ("entropy", "maskgit_plus", "topk_margin"):
        error = mx.abs(SCORES[alg](probs, tokens, mx.random.key(0)) - expected[f"sampling.{name}.{alg}"])
        assert error.max().item() <= 1e-5, alg


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_history_token_for_token_at_every_step(loaded, expected, case):
    model, tokenizer = loaded
    name = f"generate.{case['name']}"
    prompts, history = np.array(expected[f"{name}.prompt"]), np.array(expected[f"{name}.history"])
    mask = np.array(expected.get(f"{name}.attention_mask", mx.ones(prompts.shape)))
    padding = (mask == 0).sum(axis=1)
    options = {key: value for key, value in case.items() if key not in ("name", "max_new_tokens")}
    config = GenerationConfig(max_tokens=case["max_new_tokens"], reference=True, **options)

    prompts = [prompt[pad:].tolist() for prompt, pad in zip(prompts, padding, strict=True)]
    steps = list(stream_batch(model, tokenizer, prompts, config))

    assert len(steps) == len(history) == case["steps"]
    for rows, canvas in zip(steps, history, strict=True):
        for step, row, pad in zip(rows, canvas, padding, strict=True):
            np.testing.assert_array_equal(step.tokens, row[pad:])
            assert step.nfe == step.index + 1
