"""Stable-DiffCoder's and SDAR's files: what they are recognized by, what conversions keep, what is refused."""

import json
import shutil
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_diffucoder import GenerationConfig, load
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.models import family_of
from mlx_diffucoder.models.sdar import SDAR
from mlx_diffucoder.models.stable_diffcoder import STABLE_DIFFCODER

from ..conftest import DATA
from ..test_loading import save_as_mlx_lm

FOLDER = DATA / "stable-diffcoder-a"
RAW = json.loads((FOLDER / "config.json").read_text())
OLDER = {"AutoModelForCausalLM": "modeling_seed_diffcoder.LlamaForCausalLM"}
TOKENS = mx.array([[9, 300, 12, 5, 5, 40, 5]])


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (RAW, STABLE_DIFFCODER),
        (RAW | {"auto_map": None}, STABLE_DIFFCODER),
        (RAW | {"architectures": ["LlamaForCausalLM"], "auto_map": OLDER}, STABLE_DIFFCODER),
        (RAW | {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModel": f"owner/name--{OLDER['AutoModelForCausalLM']}"}},
         STABLE_DIFFCODER),
        ({"model_type": "sdar"}, SDAR),
        ({"model_type": "qwen3", "architectures": ["SDARForCausalLM"]}, SDAR),
    ],
)  # fmt: skip
def test_they_are_told_by_their_classes_and_modules(config, family):
    assert family_of(config) is family


@pytest.mark.parametrize(
    ("family", "expected"), [(STABLE_DIFFCODER, ("schedule", 0.0, 512)), (SDAR, ("threshold:tau=0.85", 1.0, None))]
)
def test_the_preset_published_is_what_their_publishers_state(family, expected):
    (own,) = family.publications
    model = SimpleNamespace(family=family, config=SimpleNamespace(block_length=4))
    config = GenerationConfig.preset("published", published=own.settings).for_model(model)
    assert config.window == "block-causal:length=4"
    assert (config.rule, config.temperature, own.settings.get("max_tokens")) == expected


def test_a_llama_alone_is_autoregressive():
    with pytest.raises(ConfigError, match='model_type is "llama", an autoregressive model'):
        family_of(RAW | {"architectures": ["LlamaForCausalLM"], "auto_map": {}})


def test_the_mask_is_5_though_no_file_says_so():
    _, tokenizer = load(FOLDER)
    assert "mask_token_id" not in RAW
    assert (tokenizer.mask_id, tokenizer.end_ids, tokenizer.pad_id) == (5, {2}, 2)


@pytest.mark.parametrize(
    "change", [{"attention_bias": True}, {"head_dim": 8}, {"mask_token_id": 776}, {"rope_scaling": {"type": "yarn"}}]
)
def test_a_value_that_contradicts_the_network_is_refused(tmp_path, edit_json, change):
    shutil.copytree(FOLDER, tmp_path / "copy")
    edit_json(tmp_path / "copy" / "config.json", **change)
    with pytest.raises(ConfigError, match=rf"config\.json: {next(iter(change))}"):
        load(tmp_path / "copy")


def test_converted_floats_are_the_same_and_quantized_weights_are_mlxs(tmp_path):
    model, _ = load(FOLDER)
    floats, _ = load(convert(FOLDER, tmp_path / "floats", ConvertConfig()))
    assert mx.array_equal(floats(TOKENS), model(TOKENS))
    packed, _ = load(convert(FOLDER, tmp_path / "packed", ConvertConfig(quantize=True, q_bits=4, q_group_size=32)))
    weights = dict(tree_flatten(packed.parameters()))
    for name, weight in tree_flatten(model.parameters()):
        if name.endswith("_proj.weight"):
            parts = (weights[name.replace("weight", part)] for part in ("weight", "scales", "biases"))
            assert all(map(mx.array_equal, mx.quantize(weight, group_size=32, bits=4), parts)), name


def test_a_folder_that_mlx_lm_converted_loads_as_it_is(tmp_path):
    out, original = save_as_mlx_lm(tmp_path, FOLDER)
    model, _ = load(out)
    assert mx.array_equal(model(TOKENS), original(TOKENS))
