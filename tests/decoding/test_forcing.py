"""The window and the rule forcing: the canvases of D2F's published code, and what must hold for any text."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, load, stream_batch, stream_generate
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.infilling.fill import fill

from ..conftest import DATA

FOLDER = DATA / "d2f-a"
CASES = json.loads((FOLDER / "expected.json").read_text())["d2f"]
EXPECTED = {name: np.array(value) for name, value in mx.load(str(FOLDER / "expected.safetensors")).items()}


@pytest.fixture(scope="module")
def d2f():
    return load(DATA / "dream-a", adapter=FOLDER)


def config_of(case, **fields):
    return GenerationConfig(
        max_tokens=case["new"],
        window=f"forcing:block={case['block']},add={case['add']},decoded={case['decoded']}",
        rule=f"forcing:skip={case['skip']}",
        end_ids=(case["end"],),
        **fields,
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_canvases_of_the_published_code_after_every_forward(d2f, case):
    prompt, history = (EXPECTED[f"d2f.{case['name']}.{name}"] for name in ("prompt", "history"))
    forwards = EXPECTED[f"d2f.{case['name']}.forwards"].tolist()
    length = prompt.shape[1] + case["new"]
    history = np.pad(history, [(0, 0), (0, length - history.shape[1])], constant_values=d2f[1].mask_id)
    steps = list(stream_generate(*d2f, prompt[0].tolist(), config_of(case, reference=True)))
    assert [step.tokens.tolist() for step in steps] == history.tolist()
    assert [(*step.window, len(step.committed)) for step in steps] == [(one[0], one[1], one[4]) for one in forwards]


def test_batches_fill_the_canvas_as_alone_and_masks_of_a_prompt_too(d2f):
    prompts = [EXPECTED["d2f.block8.prompt"][0].tolist(), [1, d2f[1].mask_id, 3], [7]]
    config = GenerationConfig(max_tokens=10, window="forcing:block=4", rule="forcing:skip=0.3", end_ids=())
    *_, last = stream_batch(*d2f, prompts, config)
    for prompt, step in zip(prompts, last, strict=True):
        *_, alone = stream_generate(*d2f, prompt, config)
        assert alone.tokens.tolist() == step.tokens.tolist()
        assert d2f[1].mask_id not in alone.tokens


def test_a_forward_is_what_the_rows_of_open_blocks_take_and_never_a_tile_more(d2f):
    config = GenerationConfig(max_tokens=80, window="forcing:block=16,add=0.1", rule="forcing:skip=0.9", end_ids=())
    steps = [*stream_generate(*d2f, [1, 2, 3], config)]
    assert max(step.rows[-1] for step in steps) == 32
    unlimited = [*stream_generate(*d2f, [1, 2, 3], replace(config, reference=True))]
    assert max(step.rows[-1] for step in unlimited) > 32


def test_the_next_block_opens_only_when_enough_of_the_last_is_committed(d2f):
    config = GenerationConfig(max_tokens=12, window="forcing:block=4,add=1", rule="forcing:skip=1", end_ids=())
    steps = [*stream_generate(*d2f, [1, 2, 3], config)]
    assert [int(step.committed[0] - 3) // 4 for step in steps] == [0] * 4 + [1] * 4 + [2] * 4


def test_text_after_a_hole_is_seen_and_every_hole_filled(d2f):
    config = GenerationConfig(window="forcing:block=4", max_tokens=6)
    every = [fill(*d2f, ["a = ", 6, after, 3, "\n"], config) for after in (" + 2\n", "(b, c)\n")]
    assert every[0].lengths == [6, 3]
    assert every[0].holes[0] != every[1].holes[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"window": "forcing:block=0"}, "block must be a whole number from 1"),
        ({"window": "forcing:add=1.5"}, "add must be a number from 0 to 1"),
        ({"window": "forcing:decoded=-1"}, "decoded must be a number from 0 to 1"),
        ({"rule": "forcing:skip=nan"}, "skip must be a number from 0 to 1"),
        ({"window": "forcing", "rule": "threshold"}, "the two named forcing go together"),
        ({"window": "forcing", "rule": "schedule"}, "the two named forcing go together"),
        ({"window": "tree", "rule": "forcing"}, "the two named forcing go together"),
    ],
)
def test_what_cannot_work_is_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        GenerationConfig(**fields)


def test_either_name_alone_brings_the_other():
    for given in ({"window": "forcing"}, {"rule": "forcing"}, {"window": "forcing", "reference": True}):
        config = GenerationConfig(**given)
        assert (config.rule.partition(":")[0], config.window.partition(":")[0]) == ("forcing", "forcing")
