"""Keys of a `config.json` that change the computation are read or refused, whichever program wrote them."""

import json

import pytest

from mlx_diffucoder import load
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.models.dream import DREAM

from ..conftest import DATA

RAW = json.loads((DATA / "dream-a" / "config.json").read_text())
PLAIN = {key: value for key, value in RAW.items() if not key.startswith("rope")}


@pytest.mark.parametrize(
    "spelt",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 500000, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default", "factor": 1.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 5e5, "rope_scaling": {}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default", "original_max_position_embeddings": 4096}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default", "partial_rotary_factor": 1.0}},
        {"rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}},
    ],
)
def test_the_base_of_the_rotation_is_read_wherever_it_stands(spelt):
    assert DREAM.read_config(PLAIN | spelt).rope_theta == 5e5


@pytest.mark.parametrize("given", [{"rope_theta": 3e4}, {"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}}])
def test_it_is_the_one_that_transformers_reads(given):
    """transformers moves an old spelling into `rope_parameters` and keeps a new one."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen2Config(**given).to_dict()["rope_parameters"]
    assert DREAM.read_config(PLAIN | given).rope_theta == theirs["rope_theta"]
    assert DREAM.read_config(PLAIN | {"rope_parameters": theirs}).rope_theta == theirs["rope_theta"]


SCALINGS = [
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "default", "type": "yarn"},
    {"rope_type": "default", "mrope_section": [16, 24, 24]},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"factor": 4.0},
    {"full_attention": {"rope_type": "yarn", "factor": 4.0}},
]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("new", [False, True])
def test_scaled_positions_are_refused_in_both_spellings(scaling, new):
    given = {"rope_parameters": {**scaling, "rope_theta": 1e6}} if new else {"rope_scaling": scaling, "rope_theta": 1e6}
    with pytest.raises(ConfigError, match=r"^rope_(parameters|scaling) \{.*\} is not supported") as refused:
        DREAM.read_config(PLAIN | given)
    assert "\n" not in str(refused.value)


def test_two_different_bases_are_refused():
    with pytest.raises(ConfigError, match=r"^rope_theta is 1000000.0, but rope_parameters.rope_theta is 10000.0"):
        DREAM.read_config(RAW | {"rope_parameters": {"rope_theta": 1e4}})


@pytest.mark.parametrize("given", [{}, {"rope_theta": None}, {"rope_parameters": {"rope_type": "default"}}])
def test_a_missing_base_is_no_default(given):
    """Programs differ in their defaults: Dream's is 10,000, DiffuCoder's checkpoints have a million."""
    with pytest.raises(ConfigError, match=r"^rope_theta is missing"):
        DREAM.read_config(PLAIN | given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_parameters", "yarn"),
        ("rope_parameters", {"rope_theta": "1e6"}),
        ("head_dim", 64),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("layer_types", "full_attention"),
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("is_causal", True),
        ("partial_rotary_factor", 0.5),
        ("rope_traditional", True),
        ("attn_logit_softcapping", 50.0),
        ("embedding_multiplier", 12.0),
        ("logit_scale", 0.0625),
        ("use_qk_norm", True),
        ("mlp_bias", True),
        ("expand_token_id", 758),
        ("expand_token_id", 1),
        ("expand_token_id", 0),
    ],
)
def test_a_key_that_changes_the_computation_is_named(key, value):
    given = {**PLAIN, **({} if "rope_theta" in str(value) else {"rope_theta": 1e6}), key: value}
    with pytest.raises(ConfigError, match="rope_theta is '1e6'" if "rope_theta" in str(value) else f"^{key} .*not supported"):
        DREAM.read_config(given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head_dim", 32),
        ("layer_types", ["full_attention"] * 3),
        ("hidden_act", "swish"),
        ("use_sliding_window", False),
        ("sliding_window", 4096),
        ("attn_logit_softcapping", None),
        ("residual_multiplier", 1.0),
        ("rope_traditional", False),
        ("expand_token_id", None),
        ("attention_dropout", 0.1),
        ("my_run_name", "grpo"),
    ],
)
def test_a_key_that_changes_nothing_is_no_obstacle(key, value):
    assert DREAM.read_config(RAW | {key: value}) == DREAM.read_config(RAW)


def test_a_token_that_grows_the_canvas_is_refused_where_only_the_decoder_s_file_names_it(broken, edit_json):
    edit_json(broken / "generation_config.json", expand_token_id=758)
    with pytest.raises(ConfigError, match=r"generation_config\.json: expand_token_id 758 is not supported: .*DreamOn"):
        load(broken)
