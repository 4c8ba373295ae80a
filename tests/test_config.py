import json
import pickle
from dataclasses import replace

import pytest

from mlx_diffucoder import GenerationConfig, ModelConfig
from mlx_diffucoder.choices import WINDOWS
from mlx_diffucoder.config import PRESETS
from mlx_diffucoder.errors import CheckpointError, ConfigError
from mlx_diffucoder.files import read_json

from .conftest import DATA

RAW = json.loads((DATA / "dream-a" / "config.json").read_text())


def test_model_config_ignores_keys_it_does_not_know():
    config = ModelConfig.from_dict(RAW | {"a_key_of_next_year": 1})
    assert (config.hidden_size, config.head_dim, config.mask_token_id) == (128, 32, 757)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mask_token_id": None}, "mask_token_id"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "128"}, "hidden_size"),
        ({"hidden_size": 128.5}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"mask_token_id": 768}, "mask_token_id"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"vocab_size": 10**15}, "vocab_size"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_scaling"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_model_config_names_the_key_that_cannot_work(change, named):
    with pytest.raises(ConfigError, match=named):
        ModelConfig.from_dict(RAW | change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("end_ids", 5),
        ("end_ids", ["x"]),
        ("end_ids", [-1]),
        ("end_ids", [True]),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("steps", 0),
        ("steps", 2**21),
        ("alg", "best"),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", 1e-46),
        ("temperature", 1e39),
        ("alg_temp", 1e-46),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("alg_temp", -1),
        ("eps", 1),
        ("seed", -1),
        ("raw", "yes"),
        ("reference", 1),
        ("system", 3),
    ],
)
def test_generation_config_names_the_field_of_an_impossible_value(field, value):
    with pytest.raises(ConfigError, match=f"^{field} must be") as caught:
        GenerationConfig(**{field: value})
    assert caught.value.field == field


def test_a_system_message_needs_the_template():
    with pytest.raises(ConfigError, match="system needs the chat template"):
        GenerationConfig(raw=True, system="be brief")


def test_generation_config_rejects_an_unknown_name():
    with pytest.raises(TypeError, match="temprature"):
        GenerationConfig(temprature=0.2)


def test_a_preset_is_plain_values_that_a_field_can_override():
    assert GenerationConfig.preset("balanced") == GenerationConfig()
    balanced = GenerationConfig.preset("balanced", max_tokens=9, rule="threshold:tau=0.5")
    assert (balanced.max_tokens, balanced.rule, balanced.window) == (9, "threshold:tau=0.5", PRESETS["balanced"]["window"])
    with pytest.raises(ConfigError, match="preset must be one of exact, balanced"):
        GenerationConfig.preset("quick")
    for name in PRESETS:
        GenerationConfig.preset(name)


@pytest.mark.parametrize(
    ("fields", "rule", "window"),
    [
        ({}, *PRESETS["balanced"].values()),
        ({"temperature": 0.4, "alg": "maskgit_plus"}, *PRESETS["balanced"].values()),
        ({"rule": "leftmost"}, "leftmost", PRESETS["balanced"]["window"]),
        ({"window": "whole"}, "threshold:tau=0.9", "whole"),
        ({"window": "tree:rows=8"}, "leftmost", "tree:rows=8"),
        ({"window": "tree:rows=16"}, PRESETS["balanced"]["rule"], "tree:rows=16"),
        ({"window": "tree:rows=8", "rule": "threshold"}, "threshold", "tree:rows=8"),
        ({"rule": "schedule"}, "schedule", "whole"),
        ({"steps": 32}, "schedule", "whole"),
        ({"steps": 32, "window": "sliding"}, "schedule", "sliding"),
        ({"window": "drafts"}, "schedule", "drafts"),
        ({"reference": True}, "schedule", "whole"),
        ({"alg": "origin"}, "schedule", "whole"),
        ({"alg_temp": 0.5}, "schedule", "whole"),
        ({"eps": 0.01}, "schedule", "whole"),
    ],
)
def test_the_default_is_balanced_or_the_schedule_where_one_of_its_fields_is(fields, rule, window):
    config = GenerationConfig(**fields)
    assert (config.rule, config.window) == (rule, window)
    assert GenerationConfig(**config.to_dict()) == config


@pytest.mark.parametrize("window", WINDOWS)
def test_the_default_length_is_short_where_a_forward_costs_more_on_a_longer_canvas(window):
    usual = 768 if window in ("sliding", "tree", "block-causal", "forcing") else 256
    config = GenerationConfig(window=window)
    assert config.max_tokens == usual
    assert json.loads(json.dumps(config.to_dict()))["max_tokens"] == usual
    assert replace(config, seed=1, rule="auto", window="whole").max_tokens == 256
    assert replace(config, rule="auto", window="sliding:width=8").max_tokens == 768
    assert pickle.loads(pickle.dumps(config)).within(9).max_tokens == 9
    assert config.within(usual) is config
    given = GenerationConfig(window=window, max_tokens=usual)
    assert given == config
    assert replace(given, rule="auto", window="whole").within(9).max_tokens == usual


def test_generation_config_takes_the_references_none_for_off():
    assert GenerationConfig(top_p=None, top_k=None, alg_temp=None) == GenerationConfig()


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), ("[1]", "list"), ("\xff", "not valid JSON")])
def test_a_damaged_json_file_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=rf"config\.json.*{message}"):
        read_json(path)
