"""Adapters that a conversion adds: to what the model is fused with first, and to mlx-lm's own sums."""

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_diffucoder import load
from mlx_diffucoder.adapter import apply_adapter
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.convert import ConvertConfig, calibrate, convert, converter, make_plan
from mlx_diffucoder.convert.adapters import Adapter
from mlx_diffucoder.errors import CheckpointError, ConvertError

from ..cli.command import assert_one_line, diffucode
from ..conftest import DATA
from ..test_peft import ADAPTERS, BASE
from ..training.small import small_checkpoint
from ..training.test_adapters import trained
from .test_convert import arrays
from .test_formats import assert_same, small_chunks  # noqa: F401

FOUR_BITS = ConvertConfig(quantize=True, q_bits=4, q_group_size=32)
CASES = [("adapter", "float32"), ("rslora-mlp", "float32"), ("patterns", "bfloat16"), ("dora", "bfloat16")]


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.usefixtures("small_chunks")
def test_an_adapter_added_on_the_way_is_one_that_was_fused_before(name, dtype, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(converter, "Adapter", lambda *args: made.append(Adapter(*args)) or made[-1])
    base = convert(BASE, tmp_path / "base", ConvertConfig(dtype=dtype))
    fused = convert(base, tmp_path / "fused", ConvertConfig(adapter=ADAPTERS[name]))
    once = convert(base, tmp_path / "once", replace(FOUR_BITS, adapter=ADAPTERS[name]))
    assert_same(once, convert(fused, tmp_path / "twice", FOUR_BITS))
    assert [own._layers for own in made] == [{}] * 2  # nothing of the adapter stays in memory
    model, found = build(base)[0], arrays(fused)
    apply_adapter(model, ADAPTERS[name], "dream-a")
    layers = {layer: one.fuse() for layer, one in model.named_modules() if hasattr(one, "fuse")}
    for layer, right in layers.items():
        weight = found[f"{layer}.weight"]
        assert weight.dtype == getattr(mx, dtype)
        close = 1e-6 if dtype == "float32" else 1e-2
        assert mx.allclose(weight.astype(mx.float32), right.weight.astype(mx.float32), rtol=close, atol=close / 10), layer
    assert layers and {one.dtype for one in found.values()} == {getattr(mx, dtype)}


@pytest.mark.parametrize("bits", [4, 8])
def test_quantizing_the_sum_adds_little_error(bits, tmp_path):
    ids, config = mx.array(np.random.default_rng(0).integers(0, 750, (8, 24))), replace(FOUR_BITS, q_bits=bits)

    def error(adapter):
        """The error of the logits by quantization, relative to the logits, root mean square."""
        right = load(BASE, adapter=adapter)[0](ids)
        got = load(convert(BASE, tmp_path / str(adapter is None), replace(config, adapter=adapter)))[0](ids)
        return float(mx.sqrt(((got - right) ** 2).mean() / (right**2).mean()))

    assert error(ADAPTERS["rslora-mlp"]) <= 1.1 * error(None)


def test_calibration_measures_the_model_with_its_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "TRIES", 1)
    base, texts = small_checkpoint(tmp_path, hidden_size=64, intermediate_size=64), tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "return n"}) + "\n")
    trained(base, tmp_path / "adapter")
    fused = convert(base, tmp_path / "fused", ConvertConfig(adapter=tmp_path / "adapter"))
    config = ConvertConfig(quantize=True, target_bpw=5, calibrate=texts)
    assert make_plan(base, replace(config, adapter=tmp_path / "adapter")) == make_plan(fused, config)


def test_rows_of_an_embedding_are_changed_too(tmp_path):
    base, adapter, ids = small_checkpoint(tmp_path), tmp_path / "adapter", mx.array([[7, 9, 300, 5]])
    model, settings = build(base)[0], {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["model.embed_tokens", "mlp.up_proj"]}
    model.freeze()
    linear_to_lora_layers(model, 2, settings)
    weights = {name: mx.random.normal(one.shape) for name, one in tree_flatten(model.trainable_parameters())}
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
    (adapter / "adapter_config.json").write_text(json.dumps({"num_layers": 2, "lora_parameters": settings}))
    fused = convert(base, tmp_path / "fused", ConvertConfig(adapter=adapter))
    assert mx.allclose(load(fused)[0](ids), load(base, adapter=adapter)[0](ids), rtol=1e-4, atol=1e-4)
    assert not mx.allclose(load(fused)[0](ids), load(base)[0](ids), rtol=0.1, atol=0.1)


def damaged(tmp_path, change):
    folder = shutil.copytree(DATA / "d2f-a" / "patterns", tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    weights = mx.load(str(file))
    mx.eval(list(weights.values()))
    change(weights)
    mx.save_safetensors(str(file), weights)
    return folder


def test_what_cannot_be_added_is_one_line_and_leaves_nothing(tmp_path):
    def spoil(weights):
        weights[min(weights)][0, 0] = float("nan")

    adapter = damaged(tmp_path, spoil)
    with pytest.raises(CheckpointError, match=r"the weight base_model\S+ holds infinities or NaNs; download the adapter again"):
        convert(BASE, tmp_path / "out", ConvertConfig(adapter=adapter))
    packed = convert(BASE, tmp_path / "packed", FOUR_BITS)
    with pytest.raises(ConvertError, match="is quantized already"):
        convert(packed, tmp_path / "out", ConvertConfig(quantize=True, adapter=DATA / "d2f-a"))
    done = diffucode("convert", DATA / "dream-b", tmp_path / "out", "--adapter", DATA / "d2f-a", "--dry-run")
    assert_one_line(done, "the adapter belongs to another model")
    assert not (tmp_path / "out").exists()


def test_the_card_names_the_adapter(tmp_path):
    out, adapter = tmp_path / "out", DATA / "d2f-a" / "patterns"
    done = diffucode("convert", BASE, out, "--adapter", adapter, "-q")
    assert done.returncode == 0, done.stderr
    assert "from `dream-a`, with the adapter `patterns`, by" in (out / "README.md").read_text()
    before, after = (dict(tree_flatten(build(folder)[0].parameters())) for folder in (BASE, out))
    assert "model.layers.0.self_attn.q_proj.scales" in after.keys() - before.keys()
