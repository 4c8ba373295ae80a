"""What is done for Apple GPUs, with the detection of the chip replaced: nothing here runs on one."""

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_diffucoder import DiffusionModel, GenerationConfig, device, generate, infill, load
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.models import attend

from .conftest import DATA
from .test_loading import save_as_mlx_lm

SEVEN_HEADS = {"hidden_size": 448, "num_attention_heads": 7, "num_key_value_heads": 1}  # a group of 7 and 64 a head, as the 7B


def loaded_on(monkeypatch, generation, folder, dtype=None):
    """A model and its tokenizer, loaded while MLX says that it computes on an Apple GPU of a generation."""
    with monkeypatch.context() as patch:
        patch.setattr("mlx_diffucoder.loading.mx.default_device", lambda: SimpleNamespace(type=mx.DeviceType.gpu))
        patch.setattr("mlx_diffucoder.loading.apple_generation", lambda: generation)
        return load(folder, dtype=dtype)


@pytest.mark.parametrize(
    ("architecture", "forced", "generation"),
    [
        ("applegpu_g13s", "", 1),
        ("applegpu_g14g", "", 2),
        ("applegpu_g17s", "", 5),
        ("air64", "", None),  # a virtual machine
        ("air64", "applegpu_g13g", 1),
    ],
)
def test_the_generation_is_read_from_the_gpus_architecture(monkeypatch, architecture, forced, generation):
    monkeypatch.setenv("MLX_METAL_GPU_ARCH", forced)
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": architecture})
    monkeypatch.setattr(device, "on_metal", lambda: True)
    assert device.apple_generation() == generation
    monkeypatch.setattr(device, "on_metal", lambda: False)
    assert device.apple_generation() is None


def quantized(tmp_path, dtype, factor=1.0):
    """A checkpoint of 4 bits whose scales are of a type; `factor` enlarges what its first layer adds."""
    folder, _ = save_as_mlx_lm(tmp_path, DATA / "dream-a")
    model, _ = build(folder)
    model.set_dtype(dtype)
    down = model.layers[0].mlp.down_proj
    down.scales, down.biases = down.scales * factor, down.biases * factor
    mx.eval(model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return folder


def float_types(model):
    return {value.dtype for _, value in tree_flatten(model.parameters())} - {mx.uint32}


@pytest.mark.parametrize(
    ("generation", "stored", "asked", "computed"),
    [
        (1, mx.bfloat16, None, mx.float16),
        (2, mx.bfloat16, None, mx.float16),
        (2, mx.bfloat16, "bfloat16", mx.bfloat16),
        (2, mx.float32, None, mx.float32),
        (3, mx.bfloat16, None, mx.bfloat16),
        (None, mx.bfloat16, None, mx.bfloat16),
    ],
)
def test_m1_and_m2_compute_in_float16_where_the_scales_are_bfloat16(tmp_path, monkeypatch, generation, stored, asked, computed):
    model, _ = loaded_on(monkeypatch, generation, quantized(tmp_path, stored), asked)
    assert float_types(model) == {computed}
    assert (model.widen is not None) == (generation in (1, 2) and computed == mx.float16)


CONFIG = GenerationConfig(max_tokens=2, raw=True)


def answers(model, tokenizer):
    yield lambda: generate(model, tokenizer, "def f(a):", CONFIG)
    yield lambda: infill(model, tokenizer, "def f(a):\n    return ", "\n", GenerationConfig(max_tokens=1, raw=True))


@pytest.mark.parametrize(("which", "factor", "type_after"), [(0, 1.0, mx.float16), (0, 1e6, mx.bfloat16), (1, 1e6, mx.bfloat16)])
def test_an_answer_that_overflows_in_float16_starts_again_in_bfloat16_with_a_line(
    tmp_path, monkeypatch, caplog, which, factor, type_after
):
    folder = quantized(tmp_path, mx.bfloat16, factor)
    model, tokenizer = loaded_on(monkeypatch, 1, folder)
    assert float_types(model) == {mx.float16}
    text = list(answers(model, tokenizer))[which]()
    assert float_types(model) == {type_after}
    assert caplog.text.count("too large for float16: starting again") == (type_after == mx.bfloat16)
    if type_after == mx.bfloat16:
        wide = load(folder, dtype="bfloat16")
        assert text == list(answers(*wide))[which]()
        weights = [dict(tree_flatten(one.parameters())) for one in (model, wide[0])]
        assert all(mx.array_equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.parametrize("rows", range(1, 11))
@pytest.mark.parametrize("kind", ["none", "keys", "queries"])
def test_attention_of_5_to_8_rows_is_padded_to_9_on_metal_and_changes_nothing(monkeypatch, rows, kind):
    from .models.test_transformer import tiny

    model: DiffusionModel = tiny(**SEVEN_HEADS)
    tokens = mx.random.randint(0, 750, (2, rows), key=mx.random.key(1))
    shape = {"none": None, "keys": (2, 1, 1, rows), "queries": (2, 1, rows, rows)}[kind]
    mask = (
        None if shape is None else (mx.random.uniform(shape=shape, key=mx.random.key(2)) < 0.7) | mx.eye(rows, dtype=mx.bool_)[:1]
    )
    plain = model(tokens, mask=mask)
    counts, attention = [], mx.fast.scaled_dot_product_attention

    def spy(queries, *given, **options):
        counts.append(queries.shape[2])
        return attention(queries, *given, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(attend, "on_metal", lambda: True)
    padded = model(tokens, mask=mask)
    assert set(counts) == {9 if 5 <= rows <= 8 else rows}
    assert padded.shape == plain.shape
    assert np.allclose(np.array(padded), np.array(plain), atol=1e-4)


@pytest.mark.parametrize(("group", "head_dim", "padded"), [(7, 128, True), (4, 128, False), (7, 96, False)])
def test_queries_are_padded_only_where_that_reaches_a_fused_kernel(monkeypatch, group, head_dim, padded):
    monkeypatch.setattr(attend, "on_metal", lambda: True)
    assert attend.falls_between(8, group, head_dim) == padded
    monkeypatch.setattr(attend, "on_metal", lambda: False)
    assert not attend.falls_between(8, group, head_dim)
