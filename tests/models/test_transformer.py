import gc
import json
import shutil
import weakref

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_diffucoder import DiffusionModel, ModelConfig
from mlx_diffucoder.models import attend, kv, rotary, transformer
from mlx_diffucoder.models.transformer import left_padded

from ..conftest import DATA

RAW = json.loads((DATA / "dream-a" / "config.json").read_text())


def tiny(**changes):
    mx.random.seed(0)
    return DiffusionModel(ModelConfig.from_dict(RAW | {"num_hidden_layers": 2, **changes}))


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


POSITIONS = [3, mx.array([0, -4]), mx.array([[9, *range(11)], [*range(1500, 1512)]])]


@pytest.mark.parametrize("positions", POSITIONS, ids=["first", "first of each row", "every token"])
def test_the_last_layer_of_some_rows_gives_what_it_gives_of_all(tokens, positions):
    model, rows = tiny(), mx.array([11, 0, 4, 4])
    mask = mx.random.uniform(shape=(1, 1, 12, 12), key=mx.random.key(2)) < 0.7
    whole = model.model(tokens, positions, mask, None)
    assert mx.allclose(model.model(tokens, positions, mask, None, rows), whole[:, rows], atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS, ids=["first", "first of each row", "every token"])
@pytest.mark.parametrize("dtype, within", [(mx.float32, 1e-6), (mx.bfloat16, 0.02)])
def test_angles_made_once_a_forward_rotate_as_the_kernel_does(positions, dtype, within):
    x = mx.random.normal((2, 12, 3, 8), key=mx.random.key(3)).astype(dtype)
    found = rotary.rotate(x, rotary.angles(positions, 12, 8, 1e6), 1e6)
    expected = rotary.rotate(x, positions, 1e6)
    assert found.dtype == dtype
    assert mx.allclose(found, expected, atol=within)


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


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.skipif(not shutil.which("g++"), reason="no g++"))]
)
def test_a_model_that_is_dropped_is_freed_at_once(tokens, monkeypatch, compiled):
    """Two 7Bs in memory are one too many: nothing may wait for the garbage collector."""
    monkeypatch.setattr(transformer, "on_gpu", lambda: compiled)
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        model = tiny()
        every = mx.arange(12)[None]
        cache = kv.PositionedKVCache(every, 12, [])
        hidden = model.model(tokens[:1], every, mx.ones((1, 1, 1, 12), dtype=mx.bool_), cache)
        mx.eval(model.logits(hidden), cache.layers)
        size = mx.get_active_memory() - before
        gone = weakref.ref(model)
        del model, hidden, cache
        assert gone() is None
        assert mx.get_active_memory() - before < 0.02 * size
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["none", "keys", "queries", "plain"])
@pytest.mark.parametrize("length", [8, 33])
def test_queries_of_a_long_prompt_go_in_chunks_against_all_keys(monkeypatch, kind, length):
    model, shape = tiny(), {"none": None, "keys": (2, 1, 1, length), "queries": (2, 1, length, length), "plain": (length, length)}
    tokens = mx.random.randint(0, 750, (2, length), key=mx.random.key(1))
    seen = shape[kind] and mx.random.uniform(shape=shape[kind], key=mx.random.key(2)) < 0.7
    mask = seen if seen is None else seen | (mx.arange(length) == 0)
    whole = model(tokens, mask=mask)
    counts, attention = [], mx.fast.scaled_dot_product_attention

    def spy(queries, keys, values, **options):
        counts.append((queries.shape[2], keys.shape[2]))
        return attention(queries, keys, values, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(attend, "LONG", 16)
    chunked = model(tokens, mask=mask)
    assert set(counts) == ({(8, 8)} if length == 8 else {(32, 33), (1, 33)})
    assert mx.allclose(chunked, whole, atol=1e-4)


def test_the_memory_of_a_long_prompts_attention_grows_with_its_length():
    """With its square it would be 16 times as much."""
    peaks = []
    for length in (640, 2560):
        queries, keys = (mx.random.normal((1, heads, length, 16), key=mx.random.key(0)) for heads in (4, 1))
        mx.eval(queries, keys)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(attend.attend(queries, keys, keys, None))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 8 * peaks[0]


def test_attention_is_bidirectional(tokens):
    model = tiny()
    changed = mx.array(tokens)
    changed[:, -1] = 1
    assert not mx.allclose(model(tokens)[:, 0], model(changed)[:, 0], atol=1e-5)


def test_left_padding_changes_nothing_for_the_row(tokens):
    model = tiny()
    padded = mx.concatenate([mx.full((2, 3), 5), tokens], axis=1)
    padded = mx.concatenate([padded[:1], mx.concatenate([tokens[1:], mx.full((1, 3), 5)], axis=1)])
    positions, mask = left_padded(mx.array([3, 0]), 15)
    out = model(padded, positions=positions, mask=mask)
    assert mx.allclose(out[0, 3:], model(tokens[:1])[0], atol=1e-4)


class PrefixCache:
    """The simplest cache: a fixed prefix before the tokens that are forwarded."""

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
    store = PrefixCache()
    whole = model(tokens, kv=store)
    store.prefix = {layer: (k[:, :, :5], v[:, :, :5]) for layer, (k, v) in store.seen.items()}
    assert mx.allclose(model(tokens[:, 5:], positions=5, kv=store), whole[:, 5:], atol=1e-4)


def test_a_position_for_each_token_is_the_same_as_where_they_start(tokens):
    model = tiny()
    starts = mx.array([3, 0])
    each = starts[:, None] + mx.arange(12)
    assert mx.allclose(model(tokens, positions=each), model(tokens, positions=starts), atol=1e-5)


def test_only_distances_between_positions_matter_and_they_do(tokens):
    model = tiny()
    each = mx.broadcast_to(mx.arange(12), (2, 12))
    assert mx.allclose(model(tokens, positions=each + 100), model(tokens), atol=1e-3)
    stretched = mx.where(each == 11, 500, each)
    assert not mx.allclose(model(tokens, positions=stretched), model(tokens), atol=1e-3)


def test_kept_keys_and_values_of_left_padded_rows(tokens):
    model = tiny()
    store = PrefixCache()
    positions, mask = left_padded(mx.array([2, 0]), 12)
    whole = model(tokens, positions=positions, mask=mask, kv=store)
    store.prefix = {layer: (k[:, :, :5], v[:, :, :5]) for layer, (k, v) in store.seen.items()}
    part = model(tokens[:, 5:], positions=positions + 5, mask=mask, kv=store)
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
