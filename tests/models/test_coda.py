"""CoDA: the published code's own float32 answers, and what its files may and may not say."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, load, stream_batch
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.models.coda import CODA

from ..conftest import DATA

FOLDER = DATA / "coda-a"
RAW = json.loads((FOLDER / "config.json").read_text())
CASES = json.loads((FOLDER / "expected.json").read_text())["cases"]


@pytest.fixture(scope="module")
def coda():
    return load(FOLDER)


@pytest.fixture(scope="module")
def expected():
    return mx.load(str(FOLDER / "expected.safetensors"))


def test_logits_are_the_references(coda, expected):
    logits, reference = coda[0](expected["forward.input_ids"]), expected["forward.logits"]
    assert mx.abs(logits - reference).max().item() <= 1e-4 * mx.abs(reference).max().item()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_history_token_for_token_at_every_step(coda, expected, case):
    prompts, history = (np.array(expected[f"generate.{case['name']}.{part}"]) for part in ("prompt", "history"))
    options = {key: value for key, value in case.items() if key not in ("name", "max_new_tokens")}
    config = GenerationConfig(max_tokens=case["max_new_tokens"], reference=True, **options)
    steps = list(stream_batch(*coda, prompts.tolist(), config))
    np.testing.assert_array_equal([[step.tokens for step in rows] for rows in steps], history)


def test_its_special_ids_are_those_of_its_tokenizer(coda):
    _, tokenizer = coda
    assert (tokenizer.mask_id, tokenizer.pad_id, tokenizer.end_ids) == (758, 753, {753, 755})


def test_a_head_is_its_own_where_the_weights_have_one_and_tied_where_they_have_none(tmp_path):
    for file in FOLDER.iterdir():
        if not file.name.startswith(("model", "expected")):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = {name: one for shard in FOLDER.glob("model-*") for name, one in mx.load(str(shard)).items()}
    head = weights.pop("lm_head.weight")
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    assert load(tmp_path)[0].config.tie_word_embeddings
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights | {"lm_head.weight": head})
    assert not load(tmp_path)[0].config.tie_word_embeddings


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"head_dim": None}, "head_dim is missing"),
        ({"head_dim": 15}, "head_dim is 15; rotary positions need an even number"),
        ({"head_dim": "16"}, "head_dim is '16', not a value of type int"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"mask_token_id": None}, "mask_token_id is missing"),
        ({"mask_token_id": 768}, "mask_token_id 768 is outside the vocabulary of 768"),
        ({"attention_bias": True}, "attention_bias true is not supported"),
        ({"num_key_value_heads": 4}, "num_key_value_heads 4 does not divide num_attention_heads 6"),
        ({"hidden_size": None}, "hidden_size is missing"),
    ],
)
def test_a_configuration_that_cannot_work_is_one_line_that_begins_with_the_key(changes, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        CODA.read_config(RAW | changes)


def test_the_width_of_a_head_is_free_of_the_hidden_size():
    wide = CODA.read_config(RAW | {"head_dim": 32})
    assert (wide.head_dim, wide.hidden_size // wide.num_attention_heads) == (32, 16)
