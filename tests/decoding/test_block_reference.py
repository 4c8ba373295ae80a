"""Stable-DiffCoder's own answers, in float32, on an untrained checkpoint: logits, and each canvas token for token."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, load, stream_generate
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.generation import canvas_of

from ..conftest import DATA
from .block_oracle import Network, decode, read_weights

FOLDER = DATA / "stable-diffcoder-a"
CASES = json.loads((FOLDER / "expected.json").read_text())["cases"]
MASK = 5


@pytest.fixture(scope="module")
def expected():
    return {name: np.array(value) for name, value in mx.load(str(FOLDER / "expected.safetensors")).items()}


@pytest.fixture(scope="module")
def network():
    return Network(json.loads((FOLDER / "config.json").read_text()), read_weights(FOLDER))


@pytest.mark.parametrize("block", [4, 8, 22])
def test_the_oracles_logits(network, expected, block):
    for ids, logits in zip(expected["forward.input_ids"], expected[f"forward_block{block}.logits"], strict=True):
        assert np.abs(network(ids.tolist(), block) - logits).max() <= 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_oracles_canvases(network, expected, case):
    name = f"generate.{case['name']}"
    history = decode(
        network,
        expected[f"{name}.prompt"][0].tolist(),
        case["gen_length"],
        block=case["block_length"],
        steps=case["steps"],
        threshold=case["threshold"],
        mask_id=MASK,
        end_ids=() if case["eos_id"] is None else [case["eos_id"]],
    )
    assert history == expected[f"{name}.history"].tolist()


@pytest.fixture(scope="module")
def loaded():
    return load(FOLDER)


def config_of(case, **fields):
    names = ("steps", "block_length", "threshold")
    ends = () if case["eos_id"] is None else (case["eos_id"],)
    return GenerationConfig(max_tokens=case["gen_length"], end_ids=ends, **{name: case[name] for name in names}, **fields)


@pytest.mark.parametrize("block", [4, 8, 22])
def test_logits_of_blocks(loaded, expected, block):
    ids, logits = mx.array(expected["forward.input_ids"]), expected[f"forward_block{block}.logits"]
    error = np.abs(np.array(loaded[0](ids, block_length=block)) - logits).max()
    assert error <= 1e-4 * np.abs(logits).max()


def test_a_models_own_blocks_have_four_positions(loaded, expected):
    ids = mx.array(expected["forward.input_ids"])
    assert mx.array_equal(loaded[0](ids), loaded[0](ids, block_length=4))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_canvases_of_the_reference(loaded, expected, case):
    name = f"generate.{case['name']}"
    prompt = expected[f"{name}.prompt"][0].tolist()
    steps = list(stream_generate(*loaded, prompt, config_of(case, reference=True)))
    assert [step.tokens.tolist() for step in steps] == expected[f"{name}.history"].tolist()


def test_the_window_gives_the_references_canvases_in_fewer_forwards(loaded, expected):
    model, tokenizer = loaded
    forwards = widest = 0
    for case in CASES:
        name, config = f"generate.{case['name']}", config_of(case).for_model(model)
        canvas = canvas_of(tokenizer, expected[f"{name}.prompt"][0].tolist(), config)
        # The published code also chooses ids that have no token.
        steps = [step for (step,) in denoise(model, [canvas], rule_for(config), window_for(config), config)]
        history = expected[f"{name}.history"].tolist()
        *before, last = [step.tokens.tolist() for step in steps]
        assert [*before, np.where(canvas.padded_out(np.array(history[-1])) == last, history[-1], -1).tolist()] == history, case
        forwards += steps[-1].nfe
        widest = max(widest, *(rows / case["block_length"] for rows in steps[-1].rows[1:]))
    assert (forwards, sum(case["nfe"] for case in CASES) + 15) == (230, 305)  # `nfe` leaves out the prompts of 15 cases
    assert widest == 2
