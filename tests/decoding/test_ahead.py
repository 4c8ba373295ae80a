"""The window ahead and the rule entropy: the canvases of d3LLM's published code, and what must hold for any text."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, stream_batch, stream_generate

from ..conftest import DATA

FOLDER = DATA / "d3llm-a"
CASES = json.loads((FOLDER / "expected.json").read_text())["cases"]
EXPECTED = {name: np.array(value) for name, value in mx.load(str(FOLDER / "expected.safetensors")).items()}


def config_of(case, **fields):
    return GenerationConfig(
        max_tokens=case["new"],
        window=f"ahead:block={case['block']},add={case['add']},decoded={case['decoded']}",
        rule=f"entropy:gamma={case['threshold']}",
        end_ids=(case["end"],) if case["early_stop"] else (),
        **fields,
    )


def of(case):
    return pytest.param(case, id=case["name"], marks=[pytest.mark.slow] * (case["forwards"] > 50))


@pytest.mark.parametrize("case", [*map(of, CASES)])
def test_canvases_of_the_published_code_after_every_forward(dream_a, case):
    prompt, history = (EXPECTED[f"{case['name']}.{name}"].tolist() for name in ("prompt", "history"))
    steps = list(stream_generate(*dream_a, prompt, config_of(case, reference=True)))
    assert [step.tokens.tolist() for step in steps] == history
    assert steps[-1].nfe == case["forwards"]


def test_batches_and_other_rules_fill_the_canvas_as_alone(dream_a):
    prompts = [EXPECTED["block8.prompt"].tolist(), EXPECTED["block16.prompt"].tolist(), [1, dream_a[1].mask_id, 3]]
    for rule in ("entropy:gamma=1.5", "schedule"):
        config = GenerationConfig(max_tokens=7, window="ahead:block=4,add=0.5", rule=rule, end_ids=())
        *_, last = stream_batch(*dream_a, prompts, config)
        for prompt, step in zip(prompts, last, strict=True):
            *_, alone = stream_generate(*dream_a, prompt, config)
            assert alone.tokens.tolist() == step.tokens.tolist()
            assert dream_a[1].mask_id not in alone.tokens


def test_the_next_block_opens_only_when_enough_of_the_last_is_committed(dream_a):
    config = GenerationConfig(max_tokens=12, window="ahead:block=4,add=1", rule="entropy:gamma=0", end_ids=())
    steps = list(stream_generate(*dream_a, [1, 2, 3], config))
    assert [int(step.committed[0] - 3) // 4 for step in steps] == [0] * 4 + [1] * 4 + [2] * 4
