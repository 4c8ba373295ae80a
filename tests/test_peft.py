"""Adapters as PEFT writes them, against logits that PEFT itself computed."""

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_diffucoder import load
from mlx_diffucoder.adapter import apply_adapter
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.errors import CheckpointError

from .conftest import DATA

BASE = DATA / "dream-a"
ADAPTERS = {"adapter": DATA / "d2f-a", **{name: DATA / "d2f-a" / name for name in ("rslora-mlp", "patterns", "dora")}}


@pytest.fixture(scope="module")
def expected():
    return mx.load(str(DATA / "d2f-a" / "expected.safetensors"))


def apart(model, expected, name):
    """How far a model's logits are from PEFT's, relative to the largest."""
    right = expected[name]
    return float(mx.abs(model(expected["input_ids"]) - right).max() / mx.abs(right).max())


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_gives_pefts_logits_merged_and_not(name, expected, tmp_path):
    assert apart(load(BASE, adapter=ADAPTERS[name])[0], expected, name) < 1e-4
    convert(BASE, tmp_path / "fused", ConvertConfig(adapter=ADAPTERS[name]))
    assert apart(load(tmp_path / "fused")[0], expected, name) < 1e-4


@pytest.mark.parametrize(("prompt", "block"), [(6, 4), (7, 8), (3, 16)])
def test_adapter_gives_pefts_logits_where_blocks_see_no_later_block(prompt, block, expected):
    right, ids = expected[f"block_causal_{prompt}_{block}"], expected["input_ids"]
    number = np.maximum(np.arange(ids.shape[1]) - prompt + block, 0) // block  # 0 is the prompt
    mask = mx.array(number[:, None] >= number)[None, None]
    got = load(BASE, adapter=ADAPTERS["adapter"])[0](ids, mask=mask)[..., ::16]
    assert float(mx.abs(got - right).max() / mx.abs(right).max()) < 1e-4


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_adds_little_error_to_quantized_linear_layers(name, bits, group):
    # Of a single text the ratio spreads from 0.98 to 1.2, with DoRA's magnitudes from the original weights too.
    ids = mx.array(np.random.default_rng(0).integers(0, 750, (8, 24)))

    def distance(adapter):
        """The error of the logits by quantization, relative to the logits, root mean square."""
        plain, quantized = build(BASE)[0], build(BASE)[0]
        nn.quantize(quantized, group_size=group, bits=bits, class_predicate=lambda _, one: isinstance(one, nn.Linear))
        for model in (plain, quantized) if adapter else ():
            apply_adapter(model, ADAPTERS[name], "dream-a")
        right, got = (model(ids) for model in (plain, quantized))
        return float(mx.sqrt(((got - right) ** 2).mean() / (right**2).mean()))

    assert distance(adapter=True) <= 1.1 * distance(adapter=False)


def changed(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def reweigh(folder, change):
    file = folder / "adapter_model.safetensors"
    weights = mx.load(str(file))
    mx.eval(list(weights.values()))
    change(weights)
    mx.save_safetensors(str(file), weights)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda one: changed(one, peft_type="IA3"), "peft_type is IA3"),
        (lambda one: changed(one, bias="all"), "bias is 'all'"),
        (lambda one: changed(one, modules_to_save=["lm_head"]), "modules_to_save is"),
        (lambda one: changed(one, fan_in_fan_out=True), "fan_in_fan_out is True"),
        (lambda one: changed(one, init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
        (lambda one: changed(one, something_new=[1]), "something_new is"),
        (lambda one: changed(one, r=0), "r of .* is 0"),
        (lambda one: changed(one, lora_alpha=2**70), "lora_alpha of .* is 1180591620717411303424"),
        (lambda one: changed(one, use_rslora="false"), "use_rslora is 'false', which is neither true nor false"),
        (lambda one: changed(one, rank_pattern={"(": 3}), "rank_pattern is not a table"),
        (lambda one: changed(one, target_modules=None), "target_modules is None"),
        (lambda one: changed(one, target_modules=["q_proj"]), "which adapter_config.json does not name"),
        (lambda one: changed(one, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]), "no weights for up_proj"),
        (lambda one: changed(one, layers_to_transform=[1]), "layers.0.*which adapter_config.json does not name"),
        (lambda one: changed(one, layers_to_transform=5.5), "layers_to_transform is 5.5"),
        (lambda one: changed(one, layers_to_transform=[0, 1, 2, 40]), "no weights for .* of layer 40"),
        (lambda one: reweigh(one, lambda all: [all.pop(A), all.pop(A.replace("lora_A", "lora_B"))]), "for q_proj of layer 0"),
        (lambda one: changed(one, use_dora=True), "lacks m of"),
        (lambda one: changed(one, r=4), "another model: lora_a of .* is"),
        (lambda one: reweigh(one, lambda all: all.pop(A)), "lacks lora_a of"),
        (lambda one: reweigh(one, lambda all: all.update({A.replace("lora_A", "lora_C"): all[A]})), "no weight of a LoRA"),
        (lambda one: reweigh(one, lambda all: all.update({A: all[A][:, :64]})), "another model: lora_a"),
        (lambda one: reweigh(one, lambda all: all.update({A.replace("layers.0.", "layers.9."): all.pop(A)})), "no layer|lacks"),
        (lambda one: reweigh(one, lambda all: all.update({A: all[A].astype(mx.int32)})), "lora_A.weight is I32, not F32 or"),
        (lambda one: (one / "adapter_model.safetensors").rename(one / "adapter_model.bin"), "is a pickle"),
        (lambda one: (one / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: no such file"),
        (lambda one: (one / "adapter_model.safetensors").write_bytes(b"x" * 9), "damaged"),
    ],
)  # fmt: skip
def test_what_does_not_fit_or_is_not_read_is_named(fault, message, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(DATA / "d2f-a" / file, folder / file)
    fault(folder)
    with pytest.raises(CheckpointError, match=message):
        load(BASE, adapter=folder)


def test_another_base_name_is_a_warning(tmp_path, caplog):
    folder = shutil.copytree(DATA / "d2f-a" / "patterns", tmp_path / "adapter")
    load(BASE, adapter=folder)
    assert not caplog.messages
    changed(folder, base_model_name_or_path="/home/author/my-dream")
    load(BASE, adapter=folder)
    assert "/home/author/my-dream" in caplog.text


def test_a_folder_with_a_model_and_an_adapter_is_a_model(tmp_path):
    both = shutil.copytree(BASE, tmp_path / "both")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(DATA / "d2f-a" / file, both / file)
    ids = mx.array([[1, 2, 3]])
    plain, same, adapted = load(BASE)[0](ids), load(both)[0](ids), load(both, adapter=both)[0](ids)
    assert mx.array_equal(plain, same) and not np.allclose(np.array(plain), np.array(adapted))
