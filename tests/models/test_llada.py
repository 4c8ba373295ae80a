"""LLaDA, against an independent oracle: its files' own names, no shift, the published decoder's order."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, load, stream_generate
from mlx_diffucoder.convert import convert
from mlx_diffucoder.errors import CheckpointError, ConfigError
from mlx_diffucoder.models.llada import LLADA

from . import llada_oracle
from .tiny import tiny_checkpoint

PROMPT = [31, 77, 400, 9, 100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("LLaDA", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def oracle(folder):
    """Its `config.json`, and its weights as the file has them."""
    stored = mx.load(str(folder / "model.safetensors"))
    assert "model.transformer.blocks.1.ff_norm.weight" in stored
    weights = {name: np.array(one).astype(np.float64) for name, one in stored.items()}
    return json.loads((folder / "config.json").read_text()), weights


def test_logits_are_the_oracles(folder, oracle):
    tokens = np.random.default_rng(1).integers(0, 750, 40)
    expected = llada_oracle.forward(*oracle, tokens)
    logits = np.array(load(folder)[0](mx.array(tokens)[None])[0])
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("block", [4, 16])
def test_every_canvas_is_that_of_the_published_order(folder, oracle, block):
    model, tokenizer = load(folder)
    allowed = np.isin(np.arange(768), tokenizer.known_ids) & (np.arange(768) != tokenizer.mask_id)
    expected = list(llada_oracle.decode(*oracle, PROMPT, 16, block, allowed))
    config = GenerationConfig(max_tokens=16, rule="threshold:tau=1", window=f"blocks:size={block},stop=0", end_ids=())
    found = [step.tokens for step in stream_generate(model, tokenizer, PROMPT, config)]
    np.testing.assert_array_equal(found, expected)


def test_its_default_needs_no_shift(folder):
    model, _ = load(folder)
    config = GenerationConfig().for_model(model)
    assert (config.rule, config.window, config.alg) == ("threshold:tau=0.9", "sliding:width=24,suffix=4", "maskgit_plus")
    with pytest.raises(ConfigError, match=r"^window tree needs logits that are shifted by one; LLaDA has none"):
        stream_generate(*load(folder), PROMPT, GenerationConfig(window="tree"))


def test_the_mask_is_the_published_one_where_no_file_names_it(oracle):
    raw = {**oracle[0], "mask_token_id": None}
    assert LLADA.read_config(raw | {"vocab_size": 126464}).mask_token_id == 126336
    with pytest.raises(ConfigError, match=r"^mask_token_id 126336 is outside the vocabulary of 768$"):
        LLADA.read_config(raw)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"d_model": None}, "d_model is missing"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"block_type": "sequential"}, 'block_type "sequential" is not supported: only "llama"'),
        ({"rope": False}, "rope false is not supported: only true"),
        ({"include_qkv_bias": True}, "include_qkv_bias true is not supported: only false"),
        ({"activation_type": "gelu"}, 'activation_type "gelu" is not supported: only "silu"'),
        ({"n_kv_heads": 3}, "n_kv_heads 3 does not divide n_heads 4"),
        ({"d_model": 1.5}, "d_model is 1.5, not a value of type int"),
        ({"max_sequence_length": 0}, "max_sequence_length is 0; it must be above 0"),
        ({"weight_tying": 1}, "weight_tying is 1, not a value of type bool"),
    ],
)
def test_a_configuration_that_it_does_not_compute_is_one_line(oracle, changes, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        LLADA.read_config(oracle[0] | changes)


@pytest.mark.parametrize(
    ("changes", "head", "tied"),
    [
        ({"weight_tying": False}, False, None),
        ({"weight_tying": None}, False, True),
        ({"weight_tying": True}, False, True),
        ({"weight_tying": False}, True, False),
        ({"weight_tying": True}, True, False),
    ],
)
def test_a_head_that_is_missing_is_the_embeddings_unless_the_configuration_denies_it(tmp_path, edit_json, changes, head, tied):
    folder = tiny_checkpoint("LLaDA", tmp_path)
    edit_json(folder / "config.json", **changes)
    if not head:
        weights = mx.load(str(folder / "model.safetensors"))
        del weights["model.transformer.ff_out.weight"]
        mx.eval(weights)
        mx.save_safetensors(str(folder / "model.safetensors"), weights)
    if tied is None:
        with pytest.raises(CheckpointError, match=r"missing weight lm_head\.weight$"):
            load(folder)
        return
    model, _ = load(folder)
    assert model.config.tie_word_embeddings is tied
    again, _ = load(convert(folder, tmp_path / "out"))
    assert again.config.tie_word_embeddings is tied
