"""One layer and a slice of `lm_head` at DiffuCoder-7B's shape: does MLX multiply large quantized weights right?

Which kernel MLX takes depends on the shape and on the rows, so the bundled model cannot show it. What MLX's default device
computes is held against the same weights in float32 in NumPy. The tolerances are four times what was found when every result was
rounded to the type and sums were in float32, as a GPU does it (float16 1.3e-3, bfloat16 1.2e-2). MLX's CPU backend adds up in 16
bits, and was off by 2e-2 and 1.9e-1. Nothing was tried on a GPU. A wrong kernel is off by far more.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_diffucoder.arrays import from_numpy
from mlx_diffucoder.device import on_gpu
from mlx_diffucoder.loading import DTYPES
from mlx_diffucoder.models.base import ModelConfig
from mlx_diffucoder.models.transformer import DiffusionModel

from .self_test import Check, checked
from .shapes import SHAPES
from .subjects import drawn

Floats = NDArray[np.float32]
ROWS = (1, 4, 8, 13, 24, 32, 33, 64, 128)
"""Rows of a forward: before, on and after the limits between MLX's kernels."""
LAYER = replace(SHAPES["7b"].config, num_hidden_layers=1, vocab_size=8192, mask_token_id=0)
ALLOWED = {"bfloat16": 4e-2, "float16": 5e-3}
"""The largest errors that pass, as a share of the largest logit."""
ON_CPU = 10
"""How much larger they may be on a CPU."""


def layer_test(config: ModelConfig = LAYER) -> Iterator[Check]:
    """Compute a layer in 4 and 8 bits and in both 16-bit types, and yield a check of each; at one row on a CPU, which is slow.

    Args:
        config: the shape, of one layer.
    """
    tokens = [np.random.default_rng(rows).integers(0, config.vocab_size, rows) for rows in (ROWS if on_gpu() else ROWS[:1])]
    for bits in (4, 8):
        with mx.stream(mx.cpu):  # the same weights on every machine
            model = drawn(config, bits, "bfloat16")
            right = expected(model, tokens)
        for dtype, allowed in ALLOWED.items():
            model.set_dtype(DTYPES[dtype])  # of 16 bits, what a scale is in bfloat16 it is in float16
            share = allowed if on_gpu() else ON_CPU * allowed
            yield _check(f"7B's layer, {bits} bits in {dtype}", model, tokens, right, share)


def _check(name: str, model: DiffusionModel, tokens: list[NDArray[np.int64]], right: list[Floats], allowed: float) -> Check:
    """The check of one type: its error is the largest at any number of rows."""
    errors = dict[int, float]()

    def error() -> float:
        for ids, logits in zip(tokens, right, strict=True):
            errors[len(ids)] = math.inf  # if MLX cannot compute it
            found = np.array(model(from_numpy(ids[None]))[0].astype(mx.float32))
            off = float(np.abs(found - logits).max() / np.abs(logits).max())
            if math.isfinite(off):
                errors[len(ids)] = off
        return max(errors.values())

    check = checked(name, allowed, error)
    worst = max(errors, key=lambda rows: errors[rows])
    rows = f"1 to {len(tokens[-1])} rows" if check.right else f"at {worst} rows"
    return replace(check, name=f"{name}, {rows if tokens[1:] else '1 row'}")


def expected(model: DiffusionModel, groups: list[NDArray[np.int64]]) -> list[Floats]:
    """The logits `[L, V]` of several texts, in float32 in NumPy; each matrix is unpacked once, and dropped again."""
    config, layer, ends = model.config, model.layers[0], np.cumsum([len(ids) for ids in groups])[:-1]

    def weight(module: Any) -> Floats:
        scales, biases = (module[name].astype(mx.float32) for name in ("scales", "biases"))
        return np.array(mx.dequantize(module.weight, scales, biases, module.group_size, module.bits))

    def linear(x: Floats, module: Any) -> Floats:
        out: Floats = x @ weight(module).T
        return out + np.array(module.bias.astype(mx.float32)) if "bias" in module else out

    def norm(x: Floats) -> Floats:  # its weights are ones
        out: Floats = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config.rms_norm_eps)
        return out

    x = weight(model.model.embed_tokens)[np.concatenate(groups)]
    parts = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    queries, keys, values = (np.split(linear(norm(x), part), ends) for part in parts)
    attended = [attention(*one, config) for one in zip(queries, keys, values, strict=True)]
    x = x + linear(np.concatenate(attended), layer.self_attn.o_proj)
    gate, up = (linear(norm(x), part) for part in (layer.mlp.gate_proj, layer.mlp.up_proj))
    x = x + linear(gate / (1 + np.exp(-gate)) * up, layer.mlp.down_proj)
    return np.split(linear(norm(x), model.lm_head), ends)


def attention(queries: Floats, keys: Floats, values: Floats, config: ModelConfig) -> Floats:
    """Bidirectional grouped-query attention with rotary positions from 0 on: `[L, heads * head_dim]`."""
    length, dim = len(queries), config.head_dim
    angles = np.arange(length)[:, None] * config.rope_theta ** (-np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angles), np.sin(angles)

    def heads(x: Floats) -> Floats:
        return x.reshape(length, -1, dim).transpose(1, 0, 2)

    def rotated(x: Floats) -> Floats:
        low, high = np.split(heads(x), 2, axis=-1)
        return np.concatenate([low * cos - high * sin, low * sin + high * cos], axis=-1).astype(np.float32)

    group = config.num_attention_heads // config.num_key_value_heads
    keys, values = rotated(keys).repeat(group, axis=0), heads(values).repeat(group, axis=0)
    scores = rotated(queries) @ keys.transpose(0, 2, 1) * dim**-0.5
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out = shares / shares.sum(axis=-1, keepdims=True) @ values  # [heads, L, head_dim]
    return out.transpose(1, 0, 2).reshape(length, -1).astype(np.float32)
