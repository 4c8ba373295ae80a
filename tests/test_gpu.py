"""What a GPU computes is what the CPU computes. Skipped where MLX has no GPU; the continuous integration has one on macOS."""

from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, generate, load
from mlx_diffucoder.models.kv import PositionedKVCache

pytestmark = pytest.mark.skipif(mx.default_device().type != mx.DeviceType.gpu, reason="MLX has no GPU here")

PROMPTS = [
    "Write a function f(nums) that returns the sum of the squares of the even numbers in nums.",
    "Implement process(k): return whether k is a prime number.",
    "Write a function solve that returns the sum of the digits of n. The argument is n.",
]
DTYPES = ["float32", "float16", "bfloat16"]
TF32 = 2e-3
"""What a float32 of TF32's precision may differ by, as a share of the largest logit."""


@contextmanager
def computing_on(device):
    before = mx.default_device()
    mx.set_default_device(device)
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_default_device(before)


def on_both(work):
    """What `work` returns on the GPU and on the CPU."""
    found = []
    for device in (mx.Device(mx.gpu), mx.Device(mx.cpu)):
        with computing_on(device):
            found.append(work())
    return found


def check(logits, dtype):
    """The GPU is as far from float32 as the CPU in the same type is: two ways to round differ by as much as either is wrong."""
    gpu, cpu = on_both(lambda: logits(dtype))
    with computing_on(mx.Device(mx.cpu)):
        exact = logits("float32")
    error, usual = (np.sqrt(np.mean((found - exact) ** 2)) for found in (gpu, cpu))
    assert error <= 2 * usual + TF32 * np.abs(exact).max()


@pytest.mark.parametrize("rows", [1, 4, 5, 8, 9, 13, 24, 32, 33, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_the_cpus(dtype, rows):
    def logits(dtype):
        model, _ = load("pocket", dtype=dtype)
        tokens = mx.array(np.random.default_rng(rows).integers(0, 750, (1, rows)))
        return np.array(model(tokens).astype(mx.float32))

    check(logits, dtype)


@pytest.mark.parametrize("rows", [5, 8, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_forward_with_a_cache_is_the_cpus(dtype, rows):
    def logits(dtype):
        model, _ = load("pocket", dtype=dtype)
        tokens = mx.array(np.random.default_rng(rows).integers(0, 750, (1, 64)))
        at, attended = mx.arange(64)[None], mx.ones((1, 1, 1, 64), dtype=mx.bool_)
        cache = PositionedKVCache(at, 64, [])
        model.model(tokens, at, attended, cache)
        out = model.model(tokens[:, -rows:], at[:, -rows:], attended, PositionedKVCache(at[:, -rows:], 64, cache.layers))
        return np.array(model.logits(out).astype(mx.float32))

    check(logits, dtype)


@pytest.mark.parametrize("preset", ["balanced", "exact"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_bundled_models_texts_are_the_cpus(preset, prompt):
    config = GenerationConfig.preset(preset, max_tokens=64, seed=0)
    gpu, cpu = on_both(lambda: generate(*load("pocket", dtype="float32"), prompt, config))
    assert gpu == cpu


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_answer_in_each_type_is_finite_and_ends(dtype):
    model, tokenizer = load("pocket", dtype=dtype)
    config = GenerationConfig.preset("balanced", max_tokens=64, seed=0)
    assert "def" in generate(model, tokenizer, PROMPTS[0], config)
