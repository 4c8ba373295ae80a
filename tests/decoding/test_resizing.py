"""Holes that change their length: the reference's own canvases (DreamOn), and what holds on any canvas."""

import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffucoder import GenerationConfig, load, stream_batch, stream_generate
from mlx_diffucoder.decoding.batch import Batch
from mlx_diffucoder.decoding.resizing import runs_of
from mlx_diffucoder.decoding.result import after_step
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import canvas_of

from ..conftest import DATA

FOLDER = DATA / "dreamon-a"
CASES = json.loads((FOLDER / "expected.json").read_text())["cases"]
FIELDS = {"alg": "alg", "top_p": "top_p", "expand_budget": "expand_budget", "pad_delete_to_right": "pad_delete_to_right"}
FIELDS |= {"number_transfer_tokens": "tokens_per_step", "max_new_tokens": "max_tokens"}
COMMIT = 0  # the kind of a recorded canvas; deletions and expansions of the same forward follow it


@pytest.fixture(scope="module")
def dreamon():
    return load(FOLDER)


@pytest.fixture(scope="module")
def expected():
    return mx.load(str(FOLDER / "expected.safetensors"))


def recorded(expected, case):
    """The prompt, and the canvas after each forward with its deletions and expansions."""
    name = f"generate.{case['name']}"
    history, kinds, lengths = (np.array(expected[f"{name}.{part}"]) for part in ("history", "kinds", "lengths"))
    last = [at for at in range(len(kinds)) if at == len(kinds) - 1 or kinds[at + 1] == COMMIT]
    return expected[f"{name}.prompt"][0].tolist(), [history[at, : lengths[at]].tolist() for at in last]


def config_of(case, **more):
    return GenerationConfig(**{new: case[old] for old, new in FIELDS.items() if old in case}, **more)


def test_logits(dreamon, expected):
    logits = dreamon[0](expected["forward.input_ids"])
    reference = expected["forward.logits"]
    assert mx.abs(logits - reference).max().item() <= 1e-4 * mx.abs(reference).max().item()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_canvas_after_every_forward_is_the_reference_s(dreamon, expected, case):
    prompt, canvases = recorded(expected, case)
    steps = list(stream_generate(*dreamon, prompt, config_of(case, reference=True)))
    assert [step.tokens.tolist() for step in steps] == canvases
    assert [step.nfe for step in steps] == list(range(1, case["forwards"] + 1))
    assert sum(len(step.deleted) > 0 for step in steps) == case["deletions"]
    assert sum(len(step.expanded) > 0 for step in steps) == case["expansions"]


@pytest.mark.parametrize("case", CASES[4:10], ids=lambda case: case["name"])
def test_a_step_tells_how_its_canvas_came_from_the_one_before(dreamon, expected, case):
    model, tokenizer = dreamon
    before, _ = recorded(expected, case)
    holes = np.array(runs_of(np.array(before) == tokenizer.mask_id), dtype=np.int32)
    for step in stream_generate(model, tokenizer, before, config_of(case)):
        changed = [[] if at in step.deleted else [token] * (1 + (at in step.expanded)) for at, token in enumerate(before)]
        rebuilt = np.array([token for parts in changed for token in parts])
        rebuilt[step.committed] = step.tokens[step.committed]
        assert rebuilt.tolist() == step.tokens.tolist()
        assert len(step.committed) == len(step.scores)
        assert step.window == (0, len(before))
        holes, before = after_step(holes, step.deleted, step.expanded), step.tokens.tolist()
    ((start, stop),) = holes
    assert stop - start == case["generated"]


@settings(max_examples=40)
@given(
    holes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    most=st.integers(4, 9),
    per_step=st.integers(1, 4),
    budget=st.integers(0, 6),
    temperature=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 99),
)
def test_limits_hold_and_known_text_stays(dreamon, holes, most, per_step, budget, temperature, seed):
    model, tokenizer = dreamon
    known = [[10 + hole, 20 + hole, 30 + hole] for hole in range(len(holes) + 1)]
    prompt = [
        *known[0],
        *(token for hole, text in zip(holes, known[1:], strict=True) for token in [tokenizer.mask_id] * hole + text),
    ]
    config = GenerationConfig(
        max_tokens=most, tokens_per_step=per_step, expand_budget=budget, temperature=temperature, seed=seed, rule="schedule"
    )
    spans = np.array(runs_of(np.array(prompt) == tokenizer.mask_id), dtype=np.int32)
    expanded = 0
    for step in stream_generate(model, tokenizer, prompt, config):
        spans, expanded = after_step(spans, step.deleted, step.expanded), expanded + len(step.expanded)
        assert all(stop - start <= most for start, stop in spans)
    assert expanded <= budget * len(holes)
    edges = [0, *spans.flatten().tolist(), len(step.tokens)]
    around = [step.tokens[edges[at] : edges[at + 1]].tolist() for at in range(0, len(edges), 2)]
    assert around == known
    inside = np.concatenate([step.tokens[start:stop] for start, stop in spans])
    sizes = tokenizer.sizes
    assert not np.isin(inside, [sizes.expand, sizes.delete]).any()


def test_holes_are_filled_one_after_the_other(dreamon):
    model, tokenizer = dreamon
    mask = tokenizer.mask_id
    prompt = [10, mask, mask, 11, mask, mask, mask, 12]
    first = True
    for step in stream_generate(model, tokenizer, prompt, GenerationConfig(max_tokens=6)):
        left = step.tokens[step.tokens.tolist().index(11) :]
        first = first and bool((step.tokens[: -len(left)] == mask).any())
        assert (left[1:4] == mask).all() or not first


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_prompts_of_a_batch_share_forwards_and_are_filled_as_alone(dreamon, expected, temperature, monkeypatch):
    different = dict.fromkeys(tuple(recorded(expected, case)[0]) for case in CASES)
    prompts = list(map(list, different))[:4]
    config = GenerationConfig(max_tokens=20, temperature=temperature, seed=5)
    alone = [list(stream_generate(*dreamon, prompt, config)) for prompt in prompts]
    calls, backbone = [], type(dreamon[0].model)
    forward = backbone.__call__
    monkeypatch.setattr(backbone, "__call__", lambda self, *args: calls.append(args[0].size) or forward(self, *args))
    together = list(stream_batch(*dreamon, prompts, config))
    assert len(calls) == len(together) == max(map(len, alone))
    for row, steps in enumerate(alone):
        assert together[-1][row].tokens.tolist() == steps[-1].tokens.tolist()
        assert together[-1][row].positions == steps[-1].positions
        for step in [one[row] for one in together[len(steps) :]] + [step.unchanged() for step in steps]:
            assert not any(map(len, (step.committed, step.scores, step.deleted, step.expanded)))  # a filled one changes no more
    rows = max((step.rows for step in together[-1]), key=len)
    assert len(rows) == len(together)
    known = sum(token != dreamon[1].mask_id for prompt in prompts for token in prompt)
    assert sum(rows) + known == sum(step.positions for step in together[-1])


def test_a_canvas_joins_and_leaves_a_batch_between_steps(dreamon, expected):
    model, tokenizer = dreamon
    config = GenerationConfig(max_tokens=20).for_model(model)
    prompts = [recorded(expected, CASES[case])[0] for case in (3, 6)]
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size, resizes=True)
    batch, last, shared = Batch(model), {}, 0
    for prompt in prompts:  # the second joins after the first step of the first, beside a canvas that is cancelled
        canvases = [canvas_of(tokenizer, one, config) for one in (prompt, prompts[0])]
        _, other = (
            batch.add(one, rule_for(config), window_for(config), config, forbidden=forbidden, copy=copy)
            for copy, one in enumerate(canvases)
        )
        last |= batch.step()
        batch.cancel(other)
        last.pop(other)
    while batch:
        last |= (steps := batch.step())
        shared += len(steps) == 2
    assert shared
    alone = [list(stream_generate(model, tokenizer, prompt, config))[-1] for prompt in prompts]
    assert [step.tokens.tolist() for step in last.values()] == [step.tokens.tolist() for step in alone]
    assert [step.positions for step in last.values()] == [step.positions for step in alone]


def test_equal_prompts_draw_their_own_numbers(dreamon, expected):
    prompt, _ = recorded(expected, CASES[0])
    *_, last = stream_batch(*dreamon, [prompt] * 3, GenerationConfig(max_tokens=20, temperature=1.2, seed=5))
    assert len({tuple(step.tokens.tolist()) for step in last}) > 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": 3}, "max_tokens 3 is below the 4 masks of the hole"),
        ({"max_tokens": 9, "alg": "origin"}, "alg origin"),
    ],
)
def test_what_cannot_work_is_refused(dreamon, expected, fields, said):
    prompt, _ = recorded(expected, CASES[0])
    with pytest.raises(ConfigError, match=said):
        list(stream_generate(*dreamon, prompt, GenerationConfig(**fields)))


@pytest.mark.parametrize("name", ["tokens_per_step", "expand_budget", "pad_delete_to_right"])
@pytest.mark.parametrize("wrong", [-1, 1.5, "2", None])
def test_a_wrong_limit_is_named(name, wrong):
    if (name, wrong) == ("expand_budget", None):
        return
    with pytest.raises(ConfigError, match=name):
        GenerationConfig(**{name: wrong})
