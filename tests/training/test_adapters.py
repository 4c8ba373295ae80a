"""Adapters: mlx-lm's files, whose they are, and what fusing makes of them."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_diffucoder import load
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.errors import CheckpointError, ConvertError, TrainError
from mlx_diffucoder.models.kv import PositionedKVCache
from mlx_diffucoder.training.learners import Tuning, from_checkpoint

from .small import CHECKPOINT, small_checkpoint

TOKENS = mx.array([[7, 9, 11, 300, 5, 6]])


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("floats"), hidden_size=64, intermediate_size=64)


@pytest.fixture(scope="module")
def packed(floats, tmp_path_factory):
    config = ConvertConfig(quantize=True, q_bits=4, q_group_size=32)
    return convert(floats, tmp_path_factory.mktemp("packed") / "packed", config)


def trained(folder, out, tune="lora", layers=None, **fields):
    """An adapter whose weights are all random: as after training, but at once."""
    learner = from_checkpoint(folder, str(folder), Tuning(tune=tune, rank=4, layers=layers, **fields), 0)
    mx.random.seed(1)
    for module in learner.model.modules():
        if "lora_b" in module:
            module.lora_b = 0.05 * mx.random.normal(module.lora_b.shape)
        if "m" in module:
            module.m = module.m * (1 + 0.1 * mx.random.normal(module.m.shape))
    out.mkdir()
    learner.write(out, learner.model)
    learner.model.eval()
    return learner


def logits(folder, adapter=None):
    return np.array(load(folder, dtype="float32", adapter=adapter)[0](TOKENS))


@pytest.mark.parametrize("tune", ["lora", "dora"])
@pytest.mark.parametrize("layers", [None, 1])
def test_a_loaded_adapter_is_the_trained_one(tmp_path, floats, tune, layers):
    learner = trained(floats, tmp_path / "a", tune, layers)
    found = logits(floats, tmp_path / "a")
    assert np.allclose(found, np.array(learner.model(TOKENS)), atol=1e-5)
    assert np.abs(found - logits(floats)).max() > 1e-3
    names = {name for name, _ in tree_flatten(learner.model.trainable_parameters())}
    assert any(".layers.1." in name for name in names)
    assert any(".layers.0." in name for name in names) == (layers is None)


def test_the_files_are_those_that_mlx_lm_reads(tmp_path, floats):
    from mlx_lm.tuner.utils import load_adapters

    learner = trained(floats, tmp_path / "a")
    model, _ = load(floats)
    load_adapters(model, str(tmp_path / "a"))
    model.eval()
    assert mx.allclose(model(TOKENS), learner.model(TOKENS), atol=1e-5)
    assert {one.name for one in (tmp_path / "a").iterdir()} == {"adapters.safetensors", "adapter_config.json"}


def test_an_adapter_without_our_mark_is_taken_where_it_fits(tmp_path, floats, edit_json):
    trained(floats, tmp_path / "a")
    before = logits(floats, tmp_path / "a")
    edit_json(tmp_path / "a" / "adapter_config.json", diffucoder_base=None)
    assert (logits(floats, tmp_path / "a") == before).all()
    with pytest.raises(CheckpointError, match=r"the adapter belongs to another model: .*lora_a"):
        load(CHECKPOINT, adapter=tmp_path / "a")


def test_an_adapter_of_another_model_is_refused_and_says_of_which(tmp_path, floats):
    trained(floats, tmp_path / "a")
    other = tmp_path / "other"
    other.mkdir()
    for file in floats.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = mx.load(str(other / "model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"] + 0.01  # as shaped as the first, and another
    mx.save_safetensors(str(other / "model.safetensors"), weights)
    with pytest.raises(CheckpointError, match=f"the adapter belongs to another model, {floats}; name that one"):
        load(other, adapter=tmp_path / "a")


def test_a_gated_adapter_changes_the_rows_of_masks_only(tmp_path, floats):
    learner = trained(floats, tmp_path / "a", gated=True)
    (base, _), (gated, _) = load(floats, dtype="float32"), load(floats, dtype="float32", adapter=tmp_path / "a")
    mask_id = base.config.mask_token_id
    known, text = TOKENS.shape[1], mx.concatenate([TOKENS, mx.full((1, 4), mask_id), TOKENS[:, :2]], axis=1)
    assert (base(TOKENS) == gated(TOKENS)).all()
    blind = np.ones((text.shape[1], text.shape[1]), dtype=bool)
    blind[np.array(text[0]) != mask_id] = np.array(text[0]) != mask_id  # known tokens attend to known ones, masks to all
    seen = mx.array(blind)
    caches = [PositionedKVCache(mx.arange(text.shape[1])[None], text.shape[1], []) for _ in range(2)]
    before, after = (model(text, mask=seen, kv=kv) for model, kv in zip((base, gated), caches, strict=True))
    masks = np.array(text[0]) == mask_id
    assert (np.array(before)[0, ~masks] == np.array(after)[0, ~masks]).all()
    assert np.abs(np.array(before - after)[0, masks]).max(axis=-1).min() > 1e-3
    for (keys, values), (new_keys, new_values) in zip(*(kv.layers for kv in caches), strict=True):
        assert (np.array(keys == new_keys)[:, :, ~masks]).all() and (np.array(values == new_values)[:, :, ~masks]).all()
    rows = mx.array([known, 0, known + 1])
    found, every = gated.model(text, 0, seen, None, rows), gated.model(text, 0, seen, None)
    assert mx.allclose(found, every[:, rows], atol=1e-5)
    learner.model.eval()
    assert mx.allclose(gated(text), learner.model(text), atol=1e-5)


def test_a_gated_adapter_is_not_fused(tmp_path, floats):
    trained(floats, tmp_path / "a", gated=True)
    with pytest.raises(ConvertError, match=r"a: is gated: .* use it as it is, with generate --adapter"):
        convert(floats, tmp_path / "out", ConvertConfig(adapter=tmp_path / "a"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"diffucoder_gate": "all"}, "diffucoder_gate is 'all' with lora"),
        ({"diffucoder_gate": "masks", "fine_tune_type": "dora"}, "diffucoder_gate is 'masks' with dora"),
        ({"num_layers": "two"}, "num_layers is 'two'"),
        ({"lora_parameters": None}, "has no lora_parameters"),
        ({"lora_parameters": {"rank": 0, "scale": 1.0, "dropout": 0.0}}, "rank is 0"),
        ({"lora_parameters": {"rank": 4, "scale": 2**70, "dropout": 0.0}}, "scale is 1180591620717411303424"),
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "dropout": 1.5}}, "dropout is 1.5"),
        ({"fine_tune_type": "full"}, "fine_tune_type is 'full'"),
    ],
)
def test_a_broken_configuration_is_named(tmp_path, floats, edit_json, changes, said):
    trained(floats, tmp_path / "a")
    edit_json(tmp_path / "a" / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {said}"):
        load(floats, adapter=tmp_path / "a")


def test_damaged_and_missing_weights_are_named(tmp_path, floats):
    trained(floats, tmp_path / "a")
    file = tmp_path / "a" / "adapters.safetensors"
    weights = mx.load(str(file))
    mx.save_safetensors(str(file), dict(list(weights.items())[1:]))
    with pytest.raises(CheckpointError, match=r"lacks model\.layers"):
        load(floats, adapter=tmp_path / "a")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"adapters\.safetensors: truncated or damaged"):
        load(floats, adapter=tmp_path / "a")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"adapters\.safetensors: no such file"):
        load(floats, adapter=tmp_path / "a")
    with pytest.raises(CheckpointError, match="no such folder"):
        load(floats, adapter=tmp_path / "nowhere")


@pytest.mark.parametrize("tune", ["lora", "dora"])
def test_fusing_gives_the_same_logits_in_one_model(tmp_path, floats, tune):
    trained(floats, tmp_path / "a", tune)
    convert(floats, tmp_path / "fused", ConvertConfig(adapter=tmp_path / "a"))
    assert np.allclose(logits(tmp_path / "fused"), logits(floats, tmp_path / "a"), atol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "dora"])
def test_fusing_a_quantized_model_keeps_its_widths_or_gives_floats(tmp_path, packed, tune):
    trained(packed, tmp_path / "a", tune)
    wanted = logits(packed, tmp_path / "a")
    convert(packed, tmp_path / "floats", ConvertConfig(adapter=tmp_path / "a", dequantize=True))
    assert np.allclose(logits(tmp_path / "floats"), wanted, atol=1e-4)
    assert "quantization" not in json.loads((tmp_path / "floats" / "config.json").read_text())
    convert(packed, tmp_path / "again", ConvertConfig(adapter=tmp_path / "a"))
    model, _ = load(tmp_path / "again")
    assert isinstance(model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    assert np.abs(logits(tmp_path / "again") - wanted).max() < np.abs(logits(packed) - wanted).max()


def test_a_fusion_that_cannot_be_leaves_nothing(tmp_path, floats):
    trained(floats, tmp_path / "a")
    with pytest.raises(ConvertError, match="not quantized"):
        convert(floats, tmp_path / "fused", ConvertConfig(adapter=tmp_path / "a", dequantize=True))
    with pytest.raises(CheckpointError, match="another model"):
        convert(CHECKPOINT, tmp_path / "fused", ConvertConfig(adapter=tmp_path / "a"))
    with pytest.raises(ConvertError, match="exists already"):
        convert(floats, tmp_path / "a", ConvertConfig(adapter=tmp_path / "a"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a"]


def test_quantized_weights_that_are_unpacked_learn_as_those_that_are_not(packed):
    """On a CPU they are, for speed: the same logits and gradients, to rounding."""
    from mlx_diffucoder.training.objective import loss

    from .test_objective import noised

    found = []
    for unpack in (False, True):
        learner = from_checkpoint(packed, "packed", Tuning(tune="lora", rank=4, dtype="float32", unpack=unpack), 0)
        assert any(hasattr(module, "bits") for module in learner.model.modules()) is not unpack
        *_, batch = noised(learner.model)
        model = learner.model
        found.append(nn.value_and_grad(model, lambda *arrays, model=model: loss(model, *arrays))(*batch.arrays()))
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-4)
    for (name, one), (other, two) in zip(tree_flatten(found[0][1]), tree_flatten(found[1][1]), strict=True):
        assert name == other and name.endswith(("lora_a", "lora_b"))
        assert mx.allclose(one, two, rtol=1e-2, atol=1e-4 * float(mx.abs(two).max())), name


def test_whole_quantized_models_and_odd_widths_for_dora_are_refused(tmp_path, floats, packed):
    with pytest.raises(TrainError, match="its weights are quantized and cannot be trained; use --tune lora"):
        from_checkpoint(packed, "packed", Tuning(tune="full"), 0)
    three = convert(floats, tmp_path / "three", ConvertConfig(quantize=True, q_bits=3, q_group_size=32))
    with pytest.raises(TrainError, match="tune dora does not support weights of 3 bits"):
        from_checkpoint(three, "three", Tuning(tune="dora", unpack=False), 0)
    with pytest.raises(TrainError, match="layers is 3, but the model has only 2"):
        from_checkpoint(floats, "floats", Tuning(tune="lora", layers=3), 0)


def test_float16_weights_are_trained_in_float32(tmp_path, floats):
    half = convert(floats, tmp_path / "half", ConvertConfig(dtype="float16"))
    assert from_checkpoint(half, "half", Tuning(), 0).model.model.norm.weight.dtype == mx.float32
    assert from_checkpoint(half, "half", Tuning(dtype="float16"), 0).model.model.norm.weight.dtype == mx.float16
