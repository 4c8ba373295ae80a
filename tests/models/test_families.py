"""The families of models: what a `config.json` is recognized by, and what a family says about its checkpoints."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace

import mlx.core as mx
import pytest

from mlx_diffucoder import DiffusionModel, GenerationConfig, Tokenizer, infill, load, models, stream_generate
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.models import FAMILIES, family_of, find_family
from mlx_diffucoder.models.base import Family, names_in
from mlx_diffucoder.models.dream import DREAM

from ..conftest import DATA
from .tiny import tiny_checkpoint

RAW = json.loads((DATA / "dream-a" / "config.json").read_text())


def test_diffucoders_configuration_is_dreams():
    assert family_of(RAW) is DREAM
    assert (DREAM.shift, DREAM.attention) == (1, "full")


@pytest.mark.parametrize("kind", ["dream", None, 5])
def test_another_configuration_is_refused_with_the_families_there_are_and_where_to_ask(kind):
    assert find_family(RAW | {"model_type": kind}) is None
    known = r"Dream \(DiffuCoder, Dream, Dream-Coder and d3LLM-Coder\); CoDA \(CoDA-1.7B\)"
    with pytest.raises(ConfigError, match=rf"^model_type is .* does not run; .* runs: {known}.*; open an issue to ask"):
        family_of(RAW | {"model_type": kind})


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_an_autoregressive_model_is_refused_with_what_runs_it(kind):
    with pytest.raises(ConfigError, match=rf'^model_type is "{kind}", an autoregressive model, which mlx-lm runs'):
        family_of(RAW | {"model_type": kind, "architectures": ["ForCausalLM"], "auto_map": None})


def test_the_classes_and_modules_that_a_configuration_names():
    named = {
        "AutoModel": "modeling_a.B",
        "AutoConfig": "owner/name--configuration_c.D",
        "AutoTokenizer": ["tokenization_e.F", None],
    }
    found = names_in({"architectures": ["G"], "auto_map": named})
    assert found == {"modeling_a", "B", "configuration_c", "D", "tokenization_e", "F", "G"}
    assert names_in({"architectures": 5, "auto_map": "modeling_a.B"}) == set()


def test_every_family_has_a_name_of_its_own():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_model_knows_its_family_and_shift():
    model, _ = load(DATA / "dream-a", lazy=True)
    assert (model.family, model.shift) == (DREAM, 1)


def test_special_ids_are_those_that_the_files_name_and_those_of_the_familys_tokens():
    ids = {"<|im_end|>": 5, "<|endoftext|>": 6, "<|dlm_pad|>": 7}
    special = DREAM.special_ids({"mask_token_id": 9, "eos_token_id": 6}, {"eos_token_id": [8, 9]}, ids.get, 10)
    assert (special.mask, special.pad, special.ends) == (9, 7, {5, 6, 7, 8})
    assert (special.chat_end, special.text_end) == (5, 6)


def test_special_ids_without_the_familys_tokens_are_those_of_the_files():
    special = DREAM.special_ids({"mask_token_id": 9, "eos_token_id": 6, "pad_token_id": 4}, {}, {}.get, 10)
    assert (special.pad, special.ends, special.chat_end, special.text_end) == (4, {4, 6}, 4, 4)
    beyond = DREAM.special_ids({"mask_token_id": 9, "eos_token_id": 6, "pad_token_id": 40}, {}, {}.get, 10)
    assert beyond.pad == 6  # no token has the id that the file names


@pytest.mark.parametrize("wrong", ["x", 1.5, True, {}, 10**12, -2, [753, "x"]])
@pytest.mark.parametrize(
    ("file", "key"), [("config", "eos_token_id"), ("config", "pad_token_id"), ("generation_config", "eos_token_id")]
)
def test_an_end_that_is_no_id_is_named_with_its_file(broken, edit_json, file, key, wrong):
    edit_json(broken / f"{file}.json", **{key: wrong})
    with pytest.raises(ConfigError, match=rf"/{file}\.json: {key} is .*, which is no token id$"):
        Tokenizer.load(broken)


def test_a_mask_that_is_not_the_token_of_its_name_is_refused(tmp_path, edit_json):
    folder = tiny_checkpoint("Open-dCoder", tmp_path)
    edit_json(folder / "config.json", mask_token_id=5)
    with pytest.raises(ConfigError, match=r"config\.json: mask_token_id is 5, but the token <M> is 757$"):
        load(folder)


@dataclass(frozen=True, kw_only=True)
class Other(Family):
    """A family as a new file would define it: no shift, a mask that no file names, other weight names."""

    def recognizes(self, config: Mapping, added: Mapping) -> bool:
        return config.get("architectures") == ["OtherModel"]

    def weight_name(self, stored, config):
        name = super().weight_name(stored, config)
        return name and name.removeprefix("other.")


OTHER = Other(name="Other", models="none", shift=0, chat_end="</s>", text_ends=("</s>",), mask_token_id=757)


def test_one_file_and_one_line_add_a_family(broken, edit_json, monkeypatch):
    edit_json(broken / "config.json", model_type="llama", architectures=["OtherModel"], mask_token_id=None)
    (broken / "model.safetensors.index.json").unlink()
    for file in sorted(broken.glob("model*.safetensors")):
        weights = {f"other.{name}": weight for name, weight in mx.load(str(file)).items()}
        mx.eval(weights)
        mx.save_safetensors(str(file), weights)
    with pytest.raises(ConfigError, match=r"config\.json: model_type"):
        load(broken)
    monkeypatch.setattr(models, "FAMILIES", (*FAMILIES, OTHER))
    model, tokenizer = load(broken)
    same, _ = load(DATA / "dream-a")
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(model(tokens), same(tokens))
    assert (model.shift, model.config.mask_token_id, tokenizer.mask_id) == (0, 757, 757)


def test_weights_that_the_network_has_no_use_for_are_left_out():
    tied = DREAM.read_config(RAW | {"tie_word_embeddings": True})
    model = DiffusionModel(tied)
    names = ("model.norm.weight", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert set(model.sanitize(dict.fromkeys(names, mx.zeros(1)))) == {"model.norm.weight"}
    assert DREAM.weight_name("lm_head.weight", DREAM.read_config(RAW)) == "lm_head.weight"


@pytest.mark.parametrize("what", ["infill", "window sliding"])
def test_what_a_family_cannot_do_is_refused_at_the_call_with_the_reason(dream_a, monkeypatch, what):
    model, tokenizer = dream_a
    monkeypatch.setattr(model, "family", replace(DREAM, cannot={what: "it sees no suffix"}))
    with pytest.raises(ConfigError, match=f"^Dream models cannot do {what}: it sees no suffix$"):
        if what == "infill":
            infill(model, tokenizer, "a", "b")
        else:
            stream_generate(model, tokenizer, [1, 2], GenerationConfig(window="sliding"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("apple/DiffuCoder-7B-cpGRPO", {"max_tokens": 256, "temperature": 0.3, "top_p": 0.95}),
        ("mlx-community/DiffuCoder-7B-cpGRPO-8bit", {"max_tokens": 256, "temperature": 0.3, "top_p": 0.95}),
        ("Dream-org/Dream-Coder-v0-Instruct-7B", {"max_tokens": 768, "temperature": 0.1, "top_p": 0.95}),
        (
            "d3LLM/d3LLM_Dream_Coder",
            {"max_tokens": 256, "rule": "entropy:gamma=0.5", "window": "ahead:block=32,add=0.1,decoded=0.95"},
        ),
        ("Dream-org/Dream-v0-Instruct-7B", {"max_tokens": 512, "temperature": 0.2, "top_p": 0.95}),
        ("my-own", {"max_tokens": 512, "temperature": 0.2, "top_p": 0.95}),
    ],
)
@pytest.mark.parametrize("place", ["_name_or_path", "cache", "folder"])
def test_models_with_one_configuration_are_told_apart_by_name(tmp_path, edit_json, name, settings, place):
    folder = tmp_path / "a"
    if place == "cache":
        folder = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / "0123"
    elif place == "folder":
        folder = tmp_path / name.rpartition("/")[2]
    shutil.copytree(DATA / "dream-a", folder)
    if place == "_name_or_path":
        edit_json(folder / "config.json", _name_or_path=name)
    model, _ = load(folder, lazy=True)
    assert model.published == settings
    config = GenerationConfig.preset("published", published=model.published, seed=3)
    assert config == GenerationConfig(**{"rule": "schedule", "window": "whole", "seed": 3, **settings})
    usual = GenerationConfig().for_model(model)
    assert (usual.rule, usual.window) == (DREAM.rule, DREAM.window)


WITHOUT_SHIFT = replace(OTHER, rule="threshold:tau=0.9", window="sliding:width=8,suffix=2")


@pytest.mark.parametrize(
    ("fields", "rule", "window"),
    [
        ({}, "threshold:tau=0.9", "sliding:width=8,suffix=2"),
        ({"rule": "leftmost"}, "leftmost", "sliding:width=8,suffix=2"),
        ({"window": "blocks"}, "threshold:tau=0.9", "blocks"),
        ({"steps": 4}, "schedule", "whole"),
        ({"rule": "threshold:tau=0.95"}, "threshold:tau=0.95", "sliding:width=8,suffix=2"),
        ({"window": "tree:rows=32"}, "threshold:tau=0.9", "tree:rows=32"),
    ],
)
def test_a_family_on_which_the_default_cannot_work_has_its_own(dream_a, monkeypatch, fields, rule, window):
    model, _ = dream_a
    assert GenerationConfig(**fields).for_model(model) == GenerationConfig(**fields)
    monkeypatch.setattr(model, "family", WITHOUT_SHIFT)
    config = GenerationConfig(**fields).for_model(model)
    assert (config.rule, config.window) == (rule, window)


def test_a_preset_is_the_familys_own(dream_a, monkeypatch):
    model, tokenizer = dream_a
    monkeypatch.setattr(model, "family", WITHOUT_SHIFT)
    for config in (None, GenerationConfig.preset("balanced"), GenerationConfig.preset("exact", max_tokens=8)):
        next(iter(stream_generate(model, tokenizer, [1, 2], config)))
    with pytest.raises(ConfigError, match="window tree needs logits that are shifted by one; Other has none"):
        stream_generate(model, tokenizer, [1, 2], GenerationConfig(window="tree:rows=32"))


def test_an_open_dcoder_is_a_qwen2_whose_tokenizer_has_its_mask(tmp_path, edit_json):
    folder = tiny_checkpoint("Open-dCoder", tmp_path)
    model, tokenizer = load(folder)
    assert (model.config.mask_token_id, tokenizer.mask_id, model.config.tie_word_embeddings) == (757, 757, True)
    edit_json(folder / "added_tokens.json", **{"<M>": 768})
    with pytest.raises(ConfigError, match=r"config\.json: mask_token_id 768 is outside the vocabulary of 768$"):
        load(folder)
    edit_json(folder / "added_tokens.json", **{"<M>": None})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["added_tokens_decoder"]["757"]
    edit_json(folder / "tokenizer_config.json", **settings)
    with pytest.raises(ConfigError, match=r'config\.json: model_type is "qwen2", an autoregressive model, which mlx-lm runs'):
        load(folder)
