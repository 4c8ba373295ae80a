"""Checkpoints as people have them: what a trainer, a clone or another program left in a folder."""

import json
import os
import shutil

import mlx.core as mx
import pytest

from mlx_diffucoder import load
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.errors import CheckpointError, DiffucoderError

from .conftest import DATA
from .test_loading import rewrite, save_as_mlx_lm

TOKENS = mx.array([[1, 2, 3, 700]])
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def logits(folder):
    return load(folder)[0](TOKENS)


@pytest.mark.parametrize(
    "name",
    [
        "module.{}",
        "_orig_mod.{}",
        "base_model.model.{}",
        "model.{}",
        "module._orig_mod.base_model.model.{}",
        "_orig_mod.module.{}",
        "network/v1.{}",
    ],
)
def test_a_prefix_that_every_weight_has_is_taken_off(broken, tmp_path, name):
    expected = logits(broken)

    def prefix(weights):
        for stored in list(weights):
            weights[name.format(stored)] = weights.pop(stored)

    rewrite(broken, prefix)
    assert mx.array_equal(logits(broken), expected)
    assert mx.array_equal(logits(convert(broken, tmp_path / "out")), expected)
    assert HEAD in mx.load(str(tmp_path / "out" / WHOLE))


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_names_of_wrappers_within_names_are_taken_out(broken, wrapper):
    expected = logits(broken)

    def wrap(weights):
        for stored in [stored for stored in weights if ".layers.1." in stored]:
            weights[stored.replace("layers.1.", f"layers.1.{wrapper}")] = weights.pop(stored)

    rewrite(broken, wrap)
    assert mx.array_equal(logits(broken), expected)


def test_a_prefix_that_only_some_weights_have_is_no_prefix(broken):
    rewrite(broken, lambda weights: weights.update({f"module.{HEAD}": weights.pop(HEAD)}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load(broken)


def test_a_weight_under_two_names_is_refused(broken):
    rewrite(broken, lambda weights: weights.update({f"_orig_mod.{HEAD}": weights[HEAD]}))
    with pytest.raises(CheckpointError, match=r"are the same weight"):
        load(broken)


@pytest.mark.parametrize("quantize", [False, True])
def test_a_head_of_its_own_is_used_even_if_the_configuration_says_that_it_is_tied(broken, tmp_path, edit_json, quantize):
    config = ConvertConfig(quantize=True, q_group_size=32) if quantize else None
    expected = logits(convert(broken, tmp_path / "untied", config))
    edit_json(broken / "config.json", tie_word_embeddings=True)
    out = convert(broken, tmp_path / "out", config)
    assert mx.array_equal(logits(out), expected)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    edit_json(out / "config.json", tie_word_embeddings=True)  # quantized weights may be contradicted as well
    assert mx.array_equal(logits(out), expected)


def test_a_head_that_equals_the_embeddings_is_left_out(tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(DATA / "dream-b", folder)
    rewrite(folder, lambda weights: weights.update({HEAD: weights[EMBEDDINGS]}))
    assert mx.array_equal(logits(folder), logits(DATA / "dream-b"))
    out = convert(folder, tmp_path / "out")
    assert HEAD not in mx.load(str(out / WHOLE))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
STANDINS = {
    "pointer": (POINTER, "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "page": (b"<!doctype html>\n<html>", "a web page, not the file itself"),
    "zip": (b"PK\x03\x04rest", "PyTorch pickle"),
    "gguf": (b"GGUF\x03", "GGUF"),
}


@pytest.mark.parametrize("file", ["model-00001-of-00002.safetensors", INDEX, "config.json", "vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", STANDINS)
def test_what_stands_in_a_files_place_is_named(broken, file, kind):
    content, message = STANDINS[kind]
    (broken / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file}: ") as refused:
        load(broken)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pytorch_model.bin", r"pytorch_model\.bin is a pickle.*safetensors"),
        ("pytorch_model-00001-of-00002.bin", r"pytorch_model-00001-of-00002\.bin is a pickle"),
        ("adapter_model.safetensors", "is an adapter: name its base"),
        ("consolidated.00.pth", r"consolidated\.00\.pth is of a format"),
        ("model-q4.gguf", r"model-q4\.gguf is of a format"),
        ("model.safetensors.part", "unfinished download"),
        ("diffusion_pytorch.safetensors", r"rename it to model\.safetensors"),
    ],
)
def test_a_folder_without_weights_says_what_it_has_instead(broken, file, message):
    for weights in broken.glob("model*"):
        weights.unlink()
    (broken / file).write_bytes(bytes(64))
    with pytest.raises(CheckpointError, match=rf"has no weights.*{message}"):
        load(broken)


def test_a_folder_around_the_checkpoint_names_the_one_within(broken):
    with pytest.raises(CheckpointError, match=rf"did you mean {broken}\?"):
        load(broken.parent)


def whole(folder, change=lambda weights: None):
    """Add the weights of a folder as one file."""
    weights = {}
    for file in folder.glob("model-*.safetensors"):
        weights |= mx.load(str(file))
    change(weights)
    mx.save_safetensors(str(folder / WHOLE), weights)


@pytest.mark.parametrize("left", [[], ["model-00002-of-00002.safetensors"]])
def test_an_index_of_absent_shards_gives_way_to_a_whole_file(broken, left):
    expected = logits(broken)
    whole(broken)
    for file in broken.glob("model-*.safetensors"):
        if file.name not in left:
            file.unlink()
    assert mx.array_equal(logits(broken), expected)


def test_shards_and_a_whole_file_must_be_the_same(broken):
    expected = logits(broken)
    whole(broken)
    assert mx.array_equal(logits(broken), expected)
    whole(broken, lambda weights: weights.update({HEAD: weights[HEAD] * 2}))
    with pytest.raises(CheckpointError, match=r"differs from the shards"):
        load(broken)


@pytest.mark.parametrize("name", ["a" * 300, "\ud800", "a\0b"])
def test_an_index_can_name_what_no_file_can_be_called(broken, name):
    (broken / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": f"{name}.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"the shard .* is missing, though"):
        load(broken)


def test_a_shard_that_only_its_number_tells_of_is_missed(broken):
    (broken / INDEX).unlink()
    (broken / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the shard model-00002-of-00002\.safetensors is missing"):
        load(broken)


AFFINE = {"bits": 4, "group_size": 32}
METHODS = [
    {"quant_method": "gptq", "bits": 4, "group_size": 128},
    {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {"quant_method": "compressed-tensors", "config_groups": {}},
]


@pytest.mark.parametrize("block", METHODS, ids=lambda block: block["quant_method"])
@pytest.mark.parametrize("key", ["quantization", "quantization_config", "compression_config"])
def test_a_quantization_of_another_program_is_refused(broken, edit_json, key, block):
    edit_json(broken / "config.json", **{key: block})
    with pytest.raises(CheckpointError, match=rf"config\.json: the {key} block of '{block['quant_method']}'"):
        load(broken)


@pytest.mark.parametrize("ending", ["qweight", "qzeros", "weight.absmax", "weight_scale_inv", "weight_packed", "SCB"])
@pytest.mark.parametrize("block", [None, AFFINE])
def test_weights_that_another_program_quantized_are_refused_whatever_the_configuration_says(broken, edit_json, ending, block):
    edit_json(broken / "config.json", quantization=block)
    rewrite(broken, lambda weights: weights.update({f"model.layers.0.mlp.up_proj.{ending}": mx.zeros(4)}))
    with pytest.raises(CheckpointError, match=rf"{ending} is a weight that another program"):
        load(broken)


LAYER = "model.layers.0.mlp.up_proj"
BLOCKS = ("quantization", "quantization_config")
"""mlx-lm writes the same block twice."""


@pytest.mark.parametrize(
    ("without", "changed", "entry", "message"),
    [
        (BLOCKS[:1], (), {}, None),
        (BLOCKS, (), {}, "has no quantization block"),
        ((), BLOCKS[:1], {"bits": 8}, "contradict each other"),
        ((), BLOCKS, {"bits": 8}, "wrongly shaped"),
        ((), BLOCKS, {"group_size": 64}, "wrongly shaped"),
        ((), BLOCKS, {"mode": "mxfp4"}, "unexpected weight"),
        ((), BLOCKS, {LAYER: False}, f"says that {LAYER} is not quantized, but its weight is"),
    ],
)
def test_a_block_that_the_weights_contradict_is_refused(tmp_path, without, changed, entry, message):
    out, original = save_as_mlx_lm(tmp_path, DATA / "dream-a")
    config = json.loads((out / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in without}
    for key in changed:
        config[key] |= entry
    (out / "config.json").write_text(json.dumps(config))
    if message is None:
        assert mx.array_equal(logits(out), original(TOKENS))
    else:
        with pytest.raises(CheckpointError, match=message):
            build(out)


def test_a_block_without_a_quantized_weight_is_refused(broken, edit_json):
    edit_json(broken / "config.json", quantization=AFFINE)
    with pytest.raises(CheckpointError, match="has a quantization block, but no weight is quantized"):
        load(broken)


FILES = (
    "config.json generation_config.json tokenizer_config.json vocab.json merges.txt added_tokens.json tokenizer.json"
    f" special_tokens_map.json chat_template.jinja chat_template.json {INDEX} model-00001-of-00002.safetensors"
).split()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_or_a_device_in_place_of_a_file_is_refused(broken, tmp_path, edit_json, file, kind):
    path = broken / file
    path.unlink(missing_ok=True)
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
    if file == "added_tokens.json":
        edit_json(broken / "tokenizer_config.json", added_tokens_decoder=None)
    if file == "chat_template.json":
        edit_json(broken / "tokenizer_config.json", chat_template=None)
    with pytest.raises(DiffucoderError, match=rf"{file}: cannot be read: it is a {kind}"):
        convert(broken, tmp_path / "out")
