"""DreamOn: what its `config.json` must say, and that its holes get any length."""

import json
import shutil

import pytest

from mlx_diffucoder import GenerationConfig, fill, generate, generate_batch, load, stream_generate
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.errors import ConfigError, PromptError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import prompt_ids, tokens_left
from mlx_diffucoder.models import family_of
from mlx_diffucoder.models.dreamon import DREAMON

from ..cli.command import diffucode
from ..conftest import DATA

FOLDER = DATA / "dreamon-a"
RAW = json.loads((FOLDER / "config.json").read_text())


@pytest.fixture(scope="module")
def dreamon():
    return load(FOLDER)


def test_a_dream_configuration_with_an_expand_token_is_dreamons(dreamon):
    assert family_of(RAW) is DREAMON
    _, tokenizer = dreamon
    assert (tokenizer.sizes.expand, tokenizer.sizes.delete, tokenizer.sizes.begin) == (758, 753, [756])


@pytest.mark.parametrize("name", ["expand_token_id", "eos_token_id"])
@pytest.mark.parametrize("wrong", [-1, 768, 1.5, True, "758", [753], 757])
def test_an_id_that_cannot_be_is_named(name, wrong):
    with pytest.raises(ConfigError, match=rf"^(expand_token_id|{name}) "):
        DREAMON.read_config(RAW | {name: wrong})


def test_a_token_that_expands_a_canvas_is_chosen_only_where_the_canvas_can_expand(dreamon):
    model, tokenizer = dreamon
    fixed, resizing = (forbidden_ids(tokenizer, model.config.vocab_size, resizes=one) for one in (False, True))
    assert (fixed != resizing).tolist() == [id == tokenizer.sizes.expand for id in range(model.config.vocab_size)]


def test_a_missing_expand_token_is_named_where_the_tokenizer_has_it(tmp_path, edit_json):
    shutil.copytree(FOLDER, tmp_path / "a")
    edit_json(tmp_path / "a" / "config.json", expand_token_id=None)
    with pytest.raises(ConfigError, match=r"config\.json: expand_token_id is missing; DreamOn"):
        load(tmp_path / "a")


@pytest.mark.parametrize("wrong", [768, 10**12, "756", True, 1.5])
def test_a_token_to_begin_with_that_cannot_be_is_named(wrong):
    with pytest.raises(ConfigError, match=r"^bos_token_id "):
        DREAMON.read_config(RAW | {"bos_token_id": wrong})


def test_a_missing_delete_token_is_named():
    with pytest.raises(ConfigError, match=r"^eos_token_id is missing; DreamOn"):
        DREAMON.read_config({key: value for key, value in RAW.items() if key != "eos_token_id"})


@pytest.mark.parametrize(
    "fields", [{"window": "sliding"}, {"rule": "threshold:tau=0.9"}, {"steps": 4}, {"eps": 0.1}, {"alg": "origin"}]
)
def test_a_field_for_canvases_of_one_length_is_refused_and_named(dreamon, fields):
    (name,) = fields
    with pytest.raises(ConfigError, match=rf"^{name} .*DreamOn"):
        generate_batch(*dreamon, [[10, 757, 11]], GenerationConfig(**fields))


def test_a_hole_without_a_length_is_filled_on_one_canvas(dreamon):
    parts = ["def f(x):\n    return", None, "\n\nprint(f(2))", None, "\n"]
    filled = fill(*dreamon, parts, GenerationConfig(**{**HOLES, "max_tokens": 12, "expand_budget": 6}))
    assert filled.tried == 1
    assert all(length <= 12 for length in filled.lengths)
    assert filled.nfe == len(filled.rows)


def test_a_given_length_is_kept_and_no_token_for_lengths_is_in_it(dreamon):
    model, tokenizer = dreamon
    filled = fill(model, tokenizer, ["def f(x):\n    return", 7, "\n"], GenerationConfig(**HOLES))
    assert filled.lengths == [7]
    assert filled.tried == 1


def test_a_prompt_without_masks_gets_an_answer(dreamon):
    config = GenerationConfig(max_tokens=8, expand_budget=4)
    first, second = generate_batch(*dreamon, ["x", "write f"], config)
    assert (first, second) == (generate_batch(*dreamon, ["x"], config)[0], generate_batch(*dreamon, ["write f"], config)[0])


def test_the_command_fills_and_says_what_it_forwarded(tmp_path):
    (tmp_path / "a.py").write_text("def f(x):\n    return <FILL>\n")
    done = diffucode("infill", tmp_path / "a.py", "-m", FOLDER, "--json", "--max-tokens", 8)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["text"].startswith("def f(x):\n    return ")
    assert (said["tried"], len(said["lengths"])) == (1, 1)
    assert sum(said["rows"].values()) == said["nfe"]


LIMIT = 2048  # the context of the fixture


@pytest.mark.parametrize(
    ("prompt", "most"),
    [([10] * 100, LIMIT - 101), ([10, *[757] * 100, 11], LIMIT - 2), ([10, 757, 11, 757, 757, 12], (LIMIT - 3) // 2)],
)
def test_the_context_has_room_for_the_text_and_each_hole_at_its_longest(dreamon, prompt, most):
    model, tokenizer = dreamon
    assert tokens_left(model, tokenizer, prompt) == most
    prompt_ids(model, tokenizer, prompt, GenerationConfig(max_tokens=most))
    with pytest.raises(PromptError, match=rf"^max_tokens {most + 1} does not fit: .* at most {most} are left for each hole$"):
        prompt_ids(model, tokenizer, prompt, GenerationConfig(max_tokens=most + 1))


def test_the_answer_to_a_prompt_with_a_hole_begins_at_the_hole(dreamon):
    *_, last = stream_generate(*dreamon, [10, 757, 757, 11, 12], config := GenerationConfig(max_tokens=6, expand_budget=3))
    assert generate(*dreamon, [10, 757, 757, 11, 12], config) == dreamon[1].decode(last.tokens[1:].tolist())
