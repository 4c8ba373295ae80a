import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_diffucoder import Dream, ModelConfig

from .conftest import DATA

RAW = json.loads((DATA / "dream-a" / "config.json").read_text())


def tiny(**changes):
    mx.random.seed(0)
    return Dream(ModelConfig.from_dict(RAW | {"num_hidden_layers": 2, **changes}))


@pytest.fixture(scope="module")
def tokens():
    return mx.random.randint(0, 750, (2, 12), key=mx.random.key(1))


def test_rows_asked_for_equal_those_of_the_whole(tokens):
    model = tiny()
    rows = mx.array([[0, 5, 11], [3, 3, 4]])
    whole = model(tokens)
    some = model(tokens, rows=rows)
    assert some.shape == (2, 3, 768)
    assert mx.allclose(some, mx.take_along_axis(whole, rows[..., None], axis=1), atol=1e-5)


def test_lm_head_runs_on_the_rows_asked_for_only(tokens):
    model = tiny()
    seen = []
    head = model.lm_head

    class Spy(nn.Module):
        def __call__(self, x):
            seen.append(x.shape)
            return head(x)

    model.lm_head = Spy()
    model(tokens, rows=mx.array([[4], [5]]))
    assert seen == [(2, 1, 128)]


def test_attention_is_bidirectional(tokens):
    model = tiny()
    changed = mx.array(tokens)
    changed[:, -1] = 1
    assert not mx.allclose(model(tokens)[:, 0], model(changed)[:, 0], atol=1e-5)


def test_left_padding_changes_nothing_for_the_row(tokens):
    model = tiny()
    padded = mx.concatenate([mx.full((2, 3), 5), tokens], axis=1)
    padded = mx.concatenate([padded[:1], mx.concatenate([tokens[1:], mx.full((1, 3), 5)], axis=1)])
    out = model(padded, padding=mx.array([3, 0]))
    assert mx.allclose(out[0, 3:], model(tokens[:1])[0], atol=1e-4)


class Kept:
    """The simplest store a caller can hand in: a fixed prefix, put before what is forwarded."""

    def __init__(self):
        self.prefix, self.seen = {}, {}

    def update(self, layer, keys, values):
        self.seen[layer] = (keys, values)
        if layer in self.prefix:
            old_keys, old_values = self.prefix[layer]
            keys, values = mx.concatenate([old_keys, keys], axis=2), mx.concatenate([old_values, values], axis=2)
        return keys, values


def test_kept_keys_and_values_stand_in_for_the_tokens_they_came_from(tokens):
    model = tiny()
    store = Kept()
    whole = model(tokens, kv=store)
    store.prefix = {layer: (k[:, :, :5], v[:, :, :5]) for layer, (k, v) in store.seen.items()}
    assert mx.allclose(model(tokens[:, 5:], offset=5, kv=store), whole[:, 5:], atol=1e-4)


def test_kept_keys_and_values_of_left_padded_rows(tokens):
    model = tiny()
    store, padding = Kept(), mx.array([2, 0])
    whole = model(tokens, padding=padding, kv=store)
    store.prefix = {layer: (k[:, :, :5], v[:, :, :5]) for layer, (k, v) in store.seen.items()}
    part = model(tokens[:, 5:], offset=5, padding=padding, kv=store)
    assert mx.allclose(part, whole[:, 5:], atol=1e-4)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_every_dtype_computes_in_itself(tokens, dtype, tied):
    model = tiny(tie_word_embeddings=tied)
    exact = model(tokens)
    model.set_dtype(dtype)
    logits = model(tokens)
    assert logits.dtype == dtype
    error = np.abs(np.array(logits.astype(mx.float32)) - np.array(exact)).max() / np.abs(np.array(exact)).max()
    assert error < {mx.float32: 1e-6, mx.float16: 0.01, mx.bfloat16: 0.05}[dtype]


MODES = [("affine", bits, 64) for bits in (2, 3, 4, 5, 6, 8)] + [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]


@pytest.mark.parametrize(("mode", "bits", "group_size"), MODES)
@pytest.mark.parametrize("tied", [False, True])
def test_quantized_weights_of_every_mode_equal_their_dequantized_selves(tokens, mode, bits, group_size, tied):
    from mlx_lm.utils import dequantize_model

    model = tiny(tie_word_embeddings=tied)
    nn.quantize(model, group_size=group_size, bits=bits, mode=mode)
    logits = model(tokens)
    exact = dequantize_model(model)(tokens)
    assert mx.allclose(logits, exact, atol=1e-3 * mx.abs(exact).max().item())
