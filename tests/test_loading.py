"""Folders as they should be, as mlx-lm converts them, and as accidents leave them."""

import json
import shutil
import struct
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import load
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.errors import CheckpointError, ConfigError, DiffucoderError

from .conftest import DATA


def test_loads_the_hubs_layout_with_its_weights(loaded, checkpoint):
    model, tokenizer = loaded
    stored = {}
    for file in checkpoint.glob("model*.safetensors"):
        stored |= mx.load(str(file))
    assert mx.array_equal(model.model.layers[1].mlp.up_proj.weight, stored["model.layers.1.mlp.up_proj.weight"])
    assert tokenizer.mask_id == model.config.mask_token_id


def test_pocket_is_the_default_and_needs_no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, _ = load()
    assert model.config.hidden_size == 256


def test_lazy_leaves_the_weights_in_their_files(broken):
    model, _ = load(broken, lazy=True)
    for file in broken.glob("model*.safetensors"):
        file.write_bytes(b"")  # whoever reads now finds nothing
    with pytest.raises(RuntimeError):
        mx.eval(model.parameters())


def test_dtype_casts_what_is_loaded(checkpoint):
    model, _ = load(checkpoint, dtype="bfloat16")
    assert model.model.norm.weight.dtype == mx.bfloat16
    with pytest.raises(DiffucoderError, match=r"dtype must be one of .*; did you mean 'bfloat16'\?"):
        load(checkpoint, dtype="bf16")


def save_as_mlx_lm(tmp_path, source, predicate=None, bits=4):
    """A folder written by mlx-lm's own helpers, as those of mlx-community are."""
    from mlx_lm.utils import quantize_model, save_config, save_model

    model, raw = build(source)
    model, raw = quantize_model(model=model, config=raw, group_size=32, bits=bits, quant_predicate=predicate)
    out = tmp_path / "converted"
    save_model(save_path=out, model=model)
    save_config(config=raw, config_path=out / "config.json")
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)
    return out, model


def test_loads_mlx_lms_layout_as_it_is(checkpoint, tmp_path):
    out, original = save_as_mlx_lm(tmp_path, checkpoint)
    model, _ = load(out)
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(model(tokens), original(tokens))


def test_loads_per_layer_entries_and_layers_left_alone(checkpoint, tmp_path):
    """mlx-community's DiffuCoder folders name every layer in `quantization`."""

    def mixed(path, module):
        if path.endswith("v_proj"):
            return {"group_size": 32, "bits": 8, "mode": "affine"}
        if path.endswith("o_proj"):
            return False
        return {"group_size": 32, "bits": 4, "mode": "affine"}

    out, original = save_as_mlx_lm(tmp_path, checkpoint, mixed)
    assert "model.layers.0.self_attn.v_proj" in json.loads((out / "config.json").read_text())["quantization"]
    model, _ = load(out)
    assert model.layers[0].self_attn.v_proj.bits == 8
    assert not hasattr(model.layers[0].self_attn.o_proj, "bits")
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(model(tokens), original(tokens))


def test_loads_several_quantized_shards(tmp_path, monkeypatch):
    import mlx_lm.utils

    def small_shards(weights):  # a limit of 5 GB is out of a test's reach
        names = sorted(weights)
        half = len(names) // 2
        return [{name: weights[name] for name in part} for part in (names[:half], names[half:])]

    monkeypatch.setattr(mlx_lm.utils, "make_shards", small_shards)
    out, original = save_as_mlx_lm(tmp_path, DATA / "dream-a")
    assert len(list(out.glob("model-*.safetensors"))) == 2
    model, _ = load(out)
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(model(tokens), original(tokens))


def rewrite(folder, change):
    """Save the weights of a folder again, changed, in one shard without an index."""
    weights = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= dict(mx.load(str(file)))
        mx.eval(weights)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    change(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), r"missing weight model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda w: w.update(extra=mx.zeros(2)), "unexpected weight extra"),
        (lambda w: w.update({"model.norm.weight": mx.zeros(3)}), r"wrongly shaped weight model\.norm\.weight.*\[3\].*\[128\]"),
        (lambda w: w.update({"model.norm.scales": mx.zeros(3)}), "no quantization block"),
        (lambda w: [w.pop(name) for name in list(w) if "layers.2" in name], "missing weights .* and 9 more"),
    ],
    ids=["missing", "unexpected", "shape", "quantized", "many"],
)
def test_a_wrong_weight_is_named(broken, change, message):
    rewrite(broken, change)
    with pytest.raises(CheckpointError, match=message):
        load(broken)


@pytest.mark.parametrize(
    "wrong", [{"bits": "four"}, {"bits": 7}, {"group_size": 0}, {"group_size": None}, {"mode": "fp1"}, {"mode": 3}]
)
@pytest.mark.parametrize("layer", [False, True])
def test_a_quantization_that_mlx_does_not_have_is_refused(tmp_path, wrong, layer):
    """Some of these would stop the process."""
    out, _ = save_as_mlx_lm(tmp_path, DATA / "dream-a")
    settings = json.loads((out / "config.json").read_text())
    block = settings["quantization"]
    target = block.setdefault("model.layers.0.self_attn.v_proj", dict(block)) if layer else block
    target.update(wrong)
    (out / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="quantization"):
        load(out)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize("dtype", [mx.uint32, mx.int32, mx.uint8, mx.bool_])
def test_a_weight_of_a_type_that_is_no_weight_is_named(broken, name, dtype):
    rewrite(broken, lambda weights: weights.update({name: weights[name].astype(dtype)}))
    with pytest.raises(CheckpointError, match=rf"of the wrong type: {name}"):
        load(broken)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "model.bin", "a/b.safetensors"])
def test_an_index_names_files_of_its_own_folder_only(broken, shard):
    index = {"weight_map": {"model.norm.weight": shard}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file of this folder"):
        load(broken)


def test_a_missing_shard_is_named(broken):
    (broken / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        load(broken)


@pytest.mark.parametrize("keep", [0, 4, 100, 100_000])
def test_a_truncated_shard_is_named(broken, keep):
    file = broken / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors: truncated or damaged"):
        load(broken)


def test_a_corrupt_header_is_named(broken):
    file = broken / "model-00001-of-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[8:40] = b"x" * 32
    file.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(broken)


def test_a_header_that_claims_a_huge_size_is_named(broken):
    file = broken / "model-00001-of-00002.safetensors"
    file.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(broken)


@pytest.mark.parametrize(
    ("name", "message"), [("config.json", "config.json: no such file"), ("*.safetensors", "missing"), ("model*", "no weights")]
)
def test_a_folder_without_config_or_weights_is_named(broken, name, message):
    for file in broken.glob(name):
        file.unlink()
    with pytest.raises(CheckpointError, match=message):
        load(broken)


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a folder"):
        load(tmp_path / "file")


@pytest.mark.parametrize(("key", "value"), [("model_type", "llama"), ("mask_token_id", None), ("vocab_size", None)])
def test_a_configuration_that_cannot_work_names_file_and_key(broken, edit_json, key, value):
    edit_json(broken / "config.json", **{key: value})
    with pytest.raises(ConfigError, match=rf"config\.json: {key}"):
        load(broken)


@pytest.mark.parametrize(
    "name",
    ["./nowhere", "nowhere", "/nowhere/at/all", "../up", "a--b/c", "-a/b", "a/b-", "x" * 97 + "/y", "~nobody-here/x", "x" * 5000],
)
def test_a_name_that_is_nothing_says_what_it_could_be(name):
    with pytest.raises(CheckpointError, match=r"no such folder|cannot be read"):
        load(name)


def test_nothing_is_held_twice(tmp_path):
    """After loading, and after casting while loading, MLX holds the weights once."""
    model, _ = load(DATA / "dream-a")
    size = sum(np.prod(shape) * 4 for shape in (value.shape for _, value in flatten(model)))
    del model
    mx.clear_cache()
    before = mx.get_active_memory()
    whole, _ = load(DATA / "dream-a")
    assert mx.get_active_memory() - before <= 1.1 * size + 2**16
    del whole
    _half, _ = load(DATA / "dream-a", dtype="float16")
    assert mx.get_active_memory() - before <= 0.6 * size + 2**16


def flatten(model):
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())


FLOAT16 = DATA / "pocket-1"


def dtypes(model):
    return {value.dtype for _, value in flatten(model)}


def half_of_the_memory_is(size, monkeypatch):
    monkeypatch.setattr("mlx_diffucoder.loading.memory_size", lambda: 2 * size)


def float32_size(model):
    return sum(value.size * 4 if value.dtype != mx.uint32 else value.nbytes for _, value in flatten(model))


@pytest.mark.parametrize("spare", [0, -1])
def test_a_cpu_computes_in_float32_where_that_takes_at_most_half_of_the_memory(monkeypatch, spare):
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    size = float32_size(load(FLOAT16, dtype="float16")[0])
    half_of_the_memory_is(size + spare, monkeypatch)
    assert dtypes(load(FLOAT16)[0]) == {mx.float32 if spare == 0 else mx.float16}
    assert dtypes(load(FLOAT16, dtype="float16")[0]) == {mx.float16}


def test_a_gpu_computes_in_the_weights_own_type(monkeypatch):
    monkeypatch.setattr("mlx_diffucoder.loading.mx.default_device", lambda: SimpleNamespace(type=mx.DeviceType.gpu))
    assert dtypes(load(FLOAT16)[0]) == {mx.float16}


@pytest.mark.parametrize("spare", [0, -1])
def test_of_quantized_weights_the_scales_follow_the_default(tmp_path, monkeypatch, spare):
    out, _ = save_as_mlx_lm(tmp_path, FLOAT16)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    model, _ = load(out, dtype="float16")
    assert dtypes(model) == {mx.uint32, mx.float16}
    half_of_the_memory_is(float32_size(model) + spare, monkeypatch)
    assert dtypes(load(out)[0]) == {mx.uint32, mx.float32 if spare == 0 else mx.float16}
