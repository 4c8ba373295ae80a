"""The recipe of the bundled model: a vocabulary learnt from the tasks, and a start that the trainer can begin from."""

import json
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_diffucoder import load
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.tokenizer import Tokenizer
from mlx_diffucoder.training.learners import from_scratch
from mlx_diffucoder.training.maker.drawing import tasks
from mlx_diffucoder.training.pocket import SHAPE, SURENESS, VOCABULARY, start
from mlx_diffucoder.training.vocabulary import SPECIAL, write_vocabulary

TEXTS = ["def f(x):\n    return x + 12\n", "naïve café 日本\r\n\tend"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocket")
    rows = (json.dumps(task.row(f"train/{number}")) + "\n" for number, task in enumerate(tasks(1500, 0, "train")))
    (folder / "train.jsonl").write_text("".join(rows))
    start(folder / "train.jsonl", folder / "start")
    return folder / "start"


def test_a_learnt_vocabulary_spells_every_text_and_gives_it_back(tmp_path):
    write_vocabulary(TEXTS * 3, 280, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"mask_token_id": 278}))
    tokenizer = Tokenizer.load(tmp_path)
    for text in [*TEXTS, "unheard of: ☃ 𝕏"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.vocabulary[token] for token in SPECIAL] == list(range(274, 280))


def test_a_vocabulary_too_small_for_the_bytes_or_too_large_for_the_texts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="vocab_size must be at least 262"):
        write_vocabulary(TEXTS, 261, tmp_path)
    with pytest.raises(ConfigError, match="vocab_size 5000 is more than these texts give"):
        write_vocabulary(TEXTS, 5000, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_recipes_start_is_a_model_of_the_bundled_ones_layout(begun):
    model, tokenizer, raw = _started(begun)
    assert (model.config.vocab_size, len(tokenizer.known_ids)) == (VOCABULARY, VOCABULARY)
    assert tokenizer.mask_id == raw["mask_token_id"] and tokenizer.pad_id == raw["pad_token_id"]
    assert set(SHAPE) <= set(raw)


def test_the_recipes_model_is_under_12_megabytes_in_float16(begun):
    from mlx.utils import tree_flatten

    model, _, _ = _started(begun)
    assert 2 * sum(value.size for _, value in tree_flatten(model.parameters())) < 12e6


def test_its_vocabulary_is_shorter_than_the_first_pockets(begun, first_pocket):
    _, tokenizer, _ = _started(begun)
    _, first = first_pocket
    answers = [task.solution for task in tasks(50, 1, "train")]
    assert sum(len(tokenizer.encode(one)) for one in answers) < sum(len(first.encode(one)) for one in answers)


def test_the_recipe_trains_in_four_stages_leaves_a_model_that_loads_and_is_done_then(tmp_path):
    short = ("--tasks", 1500, "--causal", 1, "--mixed", 1, "--again", 1, "--last", 1)
    recipe = [sys.executable, "-m", "mlx_diffucoder.training.pocket", tmp_path, *short]
    for _ in range(2):
        done = subprocess.run(list(map(str, recipe)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "diffucode convert" not in done.stderr
    model, tokenizer = load(tmp_path / "pocket", dtype="float32")
    _, begun = load(tmp_path / "causal")
    assert tokenizer.vocabulary == begun.vocabulary
    assert model.config.vocab_size == VOCABULARY
    last, _ = load(tmp_path / "last", dtype="float32")
    embedded, of_last = (one.model.embed_tokens.weight for one in (model, last))
    assert mx.array_equal(embedded, of_last.astype(mx.float16).astype(mx.float32))  # no other stage's
    canvas = mx.array([[1, 2, 3, 4]])
    assert mx.allclose(model(canvas), SURENESS * last(canvas), atol=0.02)  # its weights are float16


def _started(folder):
    learner = from_scratch(folder / "config.json", folder, 0)
    return learner.model, learner.tokenizer, json.loads((folder / "config.json").read_text())
