"""The doctor's self-test: its reference is right, and what is wrong does not pass."""

import json
import math
import shutil
from itertools import islice
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from bench.studies.make_reference import ANSWER_ON_CANVAS, canvas_of, decode, forward, make, prompts_of, weights_of
from mlx_diffucoder.bench import self_test as checks
from mlx_diffucoder.bench.self_test import FILE, Check, quantized_on_cpu, self_test
from mlx_diffucoder.loading import POCKET, resolve

from ..conftest import DATA

TASKS = DATA.parents[1] / "bench" / "tasks" / "functions.jsonl"
RECORDED = [json.loads(line) for line in (DATA / "pocket_generations.jsonl").read_text().splitlines()]


def test_the_float64_network_gives_the_references_own_logits(loaded, checkpoint):
    model, _ = loaded
    recorded = mx.load(str(checkpoint / "expected.safetensors"))
    logits = np.array(recorded["forward.logits"])
    for tokens, right in zip(np.array(recorded["forward.input_ids"]).tolist(), logits, strict=True):
        assert np.abs(forward(model.config, weights_of(model), tokens) - right).max() < 1e-5 * np.abs(logits).max()


def test_the_float64_decoder_gives_the_references_own_answer(first_pocket):
    """In float64 other tokens may be the surest; the text, of a model that is sure, is the same."""
    model, tokenizer = first_pocket
    answer = RECORDED[7]
    found = decode(model.config, weights_of(model), tokenizer, answer["prompt_ids"], 32)
    assert found == answer["output_ids"][:32]


@pytest.mark.slow
def test_the_bundled_reference_is_what_its_command_makes():
    bundled, made = mx.load(str(FILE)), make(prompts_of(TASKS))
    assert bundled.keys() == made.keys()
    for name, value in made.items():
        assert mx.allclose(bundled[name], value, rtol=1e-5, atol=1e-5), name
    assert FILE.stat().st_size < 200_000


def test_a_canvas_of_the_reference_is_read_at_masks_one_row_to_the_left():
    prompt, answer, mask = [7, 8, 9], list(range(10, 10 + ANSWER_ON_CANVAS)), 1
    tokens, rows = canvas_of(prompt, answer, mask)
    assert len(rows) == 5
    assert all(tokens[row + 1] == mask for row in rows)
    assert tokens[: len(prompt)] == prompt
    assert {mask} < set(tokens[len(prompt) :]) < {mask, *answer}


@pytest.mark.parametrize("bits", [8, 4])
def test_quantizing_moves_the_reference_by_more_than_its_tolerance(pocket, bits):
    """So a network that ignored its quantized weights' scales, or used the floats, would not pass at 4 bits."""
    arrays = mx.load(str(FILE))
    plain, quantized = (np.array(arrays[f"canvas.0.logits.{kind}"]) for kind in ("float32", f"{bits} bits"))
    moved = np.abs(plain - quantized).max() / np.abs(plain).max()
    assert (moved > checks.QUANTIZED_FLOAT32) == (bits == 4)


@pytest.fixture
def damaged(tmp_path):
    """A copy of `pocket` of whose 5 million weights one has changed its sign."""
    shutil.copytree(resolve(POCKET), tmp_path / "pocket")
    path = tmp_path / "pocket" / "model.safetensors"
    weights = dict(mx.load(str(path)))
    name = "model.layers.3.input_layernorm.weight"
    values = np.array(weights[name])
    values[5] *= -1
    mx.save_safetensors(str(path), weights | {name: mx.array(values)}, {"format": "mlx"})
    return tmp_path / "pocket"


def test_one_damaged_weight_fails_the_self_test(damaged):
    wrong = [check for check in islice(self_test(damaged), 2) if not check.right]
    assert [check.name for check in wrong] == ["logits in float32", "logits in float16"]
    assert all(math.isfinite(check.error) for check in wrong)


def test_every_token_that_differs_is_counted(monkeypatch):
    arrays = {name: np.array(value) for name, value in mx.load(str(FILE)).items()}
    tokens = np.concatenate([arrays["answer.0.prompt"], arrays["answer.0.output"]])
    monkeypatch.setattr(checks, "stream_generate", lambda *given: iter([SimpleNamespace(tokens=tokens)]))
    assert checks._tokens("answer", arrays, 0, POCKET).right
    tokens[-3:] += 1
    check = checks._tokens("answer", arrays, 0, POCKET)
    assert (check.error, check.right, check.found()) == (3, False, "3 tokens differ")


def test_a_kernel_that_does_not_run_is_a_failed_check_that_says_why(monkeypatch):
    def broken(name, dtype):
        raise RuntimeError("[metal::Device] Unable to load kernel\n  steel_gemm")

    monkeypatch.setattr(checks, "load", broken)
    check = next(self_test())
    assert not check.right
    assert check.found() == "[metal::Device] Unable to load kernel steel_gemm"
    assert json.loads(json.dumps(check.to_dict(), allow_nan=False))["error"] is None


def test_what_is_no_number_is_not_right(monkeypatch, pocket):
    assert not Check(name="x", error=math.nan, allowed=1, seconds=0).right
    size = pocket[0].config.vocab_size
    monkeypatch.setattr(checks, "load", lambda name, dtype: (lambda tokens, rows: mx.full((1, 5, size), math.nan), None))
    assert next(self_test()).error == math.inf


def test_quantizing_for_the_self_test_is_done_on_the_cpu(pocket):
    from mlx_diffucoder import load

    one, other = (quantized_on_cpu(load(POCKET, dtype="float32")[0], 4) for _ in range(2))
    layer, same = (model.model.layers[0].mlp.up_proj for model in (one, other))
    assert mx.array_equal(layer.weight, same.weight)
    assert layer.bits == 4
