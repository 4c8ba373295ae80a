"""The recipe of the bundled model: a vocabulary learnt from the tasks, and a start that the trainer can begin from."""

import json
import shlex
import shutil
import subprocess
import sys

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from bench.pocket import recipe
from bench.pocket.maker import __main__ as maker
from bench.pocket.maker.drawing import tasks
from bench.pocket.recipe import SHAPE, STAGES, VOCABULARY, Mean, average, start
from bench.pocket.vocabulary import SPECIAL, write_vocabulary
from mlx_diffucoder import load
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.tokenizer import Tokenizer
from mlx_diffucoder.training.learners import from_scratch

from ..cli.command import diffucode

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
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "Dream", "mask_token_id": 278}))
    tokenizer = Tokenizer.load(tmp_path)
    for text in [*TEXTS, "unheard of: ☃ 𝕏"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.vocabulary[token] for token in SPECIAL] == list(range(274, 280))


def test_a_vocabulary_too_small_for_the_bytes_or_too_large_for_the_texts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="vocab_size must be at least 262"):
        write_vocabulary(TEXTS, 261, tmp_path)
    with pytest.raises(ConfigError, match="vocab_size 5000 is more than these texts yield"):
        write_vocabulary(TEXTS, 5000, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_recipes_start_is_a_model_of_the_bundled_ones_layout(begun):
    model, tokenizer, raw = _started(begun)
    assert (model.config.vocab_size, len(tokenizer.known_ids)) == (VOCABULARY, VOCABULARY)
    assert tokenizer.mask_id == raw["mask_token_id"] and tokenizer.pad_id == raw["pad_token_id"]
    assert set(SHAPE) <= set(raw)


def test_the_recipes_model_is_under_12_megabytes_in_float16(begun):
    model, _, _ = _started(begun)
    assert 2 * sum(value.size for _, value in tree_flatten(model.parameters())) < 12e6


def test_its_vocabulary_is_shorter_than_the_first_pockets(begun, first_pocket):
    _, tokenizer, _ = _started(begun)
    _, first = first_pocket
    answers = [task.solution for task in tasks(50, 1, "train")]
    assert sum(len(tokenizer.encode(one)) for one in answers) < sum(len(first.encode(one)) for one in answers)


def small_recipe(folder, monkeypatch):
    """What the recipe prints when its network and most of its sets of tasks are small, in this process."""
    printed = []

    def run(words):
        printed.append("diffucode " + shlex.join(map(str, words)))
        done = diffucode(*words)
        assert done.returncode == 0, done.stderr

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {name: drawn | {"size": 1500 if name == "plain" else 50} for name, drawn in recipe.TASKS.items()}
    monkeypatch.setattr(recipe, "SHAPE", SHAPE | small)
    monkeypatch.setattr(recipe, "TASKS", sizes)
    monkeypatch.setattr(recipe, "run", run)
    monkeypatch.setattr(maker, "WIDE", {"unseen": 2, "seen": 1})
    recipe.main(folder, steps=1)
    return printed


def whole_recipe(folder, monkeypatch):
    """What the command prints for the bundled model's own network; this takes minutes."""
    command = [sys.executable, "-m", "bench.pocket.recipe", str(folder), "--tasks", "1500", "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("made_by", [small_recipe, whole_recipe])
def test_the_recipe_trains_stage_by_stage_leaves_a_model_that_loads_and_is_done_then(tmp_path, monkeypatch, made_by):
    printed = made_by(tmp_path, monkeypatch)
    trained = [line for line in printed if line.startswith("diffucode train")]
    stages = [stage for stage in STAGES if not isinstance(stage, Mean)]
    assert trained[0].startswith(f"diffucode train --from-scratch {tmp_path / 'start' / 'config.json'} ")
    for line, stage in zip(trained, stages, strict=True):
        assert stage.begun == "start" or line.startswith(f"diffucode train --model {tmp_path / stage.begun} --tune full ")
        assert f"--data {tmp_path / 'tasks' / stage.tasks / 'train.jsonl'}" in line
        assert f"--out {tmp_path / stage.name} " in line
    assert any(line.startswith("diffucode convert") for line in printed)
    assert made_by(tmp_path, monkeypatch) == []
    model, tokenizer = load(tmp_path / "pocket", dtype="float32")
    _, begun = load(tmp_path / "causal")
    assert tokenizer.vocabulary == begun.vocabulary
    assert model.config.vocab_size == VOCABULARY
    for mean in (stage for stage in STAGES if isinstance(stage, Mean)):
        parts = [(share, _weights(tmp_path / name)) for name, share in mean.shares.items()]
        for name, value in _weights(tmp_path / mean.name).items():
            assert mx.array_equal(value, sum(share * part[name] for share, part in parts)), (mean.name, name)
    last, _ = load(tmp_path / STAGES[-1].name, dtype="float16")
    of_last = dict(tree_flatten(last.parameters()))
    for name, value in tree_flatten(model.parameters()):
        assert mx.array_equal(value, of_last[name].astype(mx.float32)), name


def test_the_stages_begin_from_what_is_there_and_the_means_are_whole():
    there = {"start"}
    for stage in STAGES:
        assert (set(stage.shares) if isinstance(stage, Mean) else {stage.begun}) <= there
        assert not isinstance(stage, Mean) or sum(stage.shares.values()) == pytest.approx(1)
        there.add(stage.name)


def test_a_mean_of_checkpoints_has_so_much_of_each_ones_weights(tmp_path, begun):
    written = {}
    for name, value in (("a", 1.0), ("b", 5.0)):
        shutil.copytree(begun, tmp_path / name)
        written[tmp_path / name] = {"x": mx.array([value, 0.0]), "y": mx.array([[value]])}
        mx.save_safetensors(str(tmp_path / name / "model.safetensors"), written[tmp_path / name])
    average({tmp_path / "a": 0.75, tmp_path / "b": 0.25}, tmp_path / "mean")
    found = mx.load(str(tmp_path / "mean" / "model.safetensors"))
    assert {name: value.tolist() for name, value in found.items()} == {"x": [2.0, 0.0], "y": [[2.0]]}
    assert (tmp_path / "mean" / "vocab.json").read_bytes() == (begun / "vocab.json").read_bytes()


def _weights(folder):
    return mx.load(str(folder / "model.safetensors"))


def _started(folder):
    learner = from_scratch(folder / "config.json", folder, 0)
    return learner.model, learner.tokenizer, json.loads((folder / "config.json").read_text())
