"""Canvases that are denoised together: as alone, whoever joins or leaves, and nothing is forwarded for a finished one."""

import shutil
import weakref

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, generate, generate_batch, stream_batch, stream_generate
from mlx_diffucoder.decoding.batch import Batch
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import canvas_of
from mlx_diffucoder.models import transformer

PROMPTS = [
    "Implement process(k): return whether k is even.",
    "Write a function f that returns the sum of the squares of the even numbers in a list of lists of numbers.",
    "Add two numbers.",
]
WINDOWS = ["tree", "sliding", "sliding:width=8,refresh=5", "whole", "blocks", "blocks-prefix", "blocks-dual", "drafts:ahead=3"]


@pytest.fixture
def forwarded(monkeypatch):
    """The positions of each forward."""
    sizes, plain = [], transformer.Backbone.__call__
    monkeypatch.setattr(
        transformer.Backbone, "__call__", lambda self, tokens, *args: sizes.append(tokens.size) or plain(self, tokens, *args)
    )
    return sizes


def alone(loaded, prompt, config):
    return list(stream_generate(*loaded, prompt, config))


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.8, "top_p": 0.9}, {"temperature": 0.8, "alg": "maskgit_plus"}], ids=str)
@pytest.mark.parametrize("window", WINDOWS)
def test_every_step_in_a_batch_is_that_of_the_prompt_alone(dream_b, forwarded, window, fields):
    config = GenerationConfig(max_tokens=14, rule="threshold:tau=0.4", window=window, seed=5, **fields)
    histories = [alone(dream_b, prompt, config) for prompt in PROMPTS]
    one_by_one = sum(forwarded)
    forwarded.clear()
    together = list(stream_batch(*dream_b, PROMPTS, config))
    assert sum(forwarded) == one_by_one == sum(step.positions for step in together[-1])
    assert len(together) == max(map(len, histories)) > min(map(len, histories))
    for row, history in enumerate(histories):
        for rows, step in zip(together, history, strict=False):
            assert rows[row].tokens.tolist() == step.tokens.tolist()
            assert rows[row].committed.tolist() == step.committed.tolist()
        for rows in together[len(history) :]:
            assert rows[row].tokens.tolist() == history[-1].tokens.tolist()
            assert not len(rows[row].committed)


@pytest.mark.parametrize("fields", [{"alg": "origin"}, {"alg_temp": 0.5}, {"steps": 9, "temperature": 0.7}], ids=str)
def test_a_schedule_that_draws_is_the_same_alone_too(dream_a, fields):
    config = GenerationConfig(max_tokens=14, seed=3, **fields)
    prompts = [[3, 5, 7], [1, dream_a[1].mask_id, 2, 4, 6], [9]]
    *_, together = stream_batch(*dream_a, prompts, config)
    for prompt, step in zip(prompts, together, strict=True):
        assert step.tokens.tolist() == alone(dream_a, prompt, config)[-1].tokens.tolist()


def test_of_equal_prompts_each_draws_its_own_and_the_first_is_as_alone(dream_b):
    config = GenerationConfig(max_tokens=9, temperature=0.8, seed=5)
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]]
    texts = generate_batch(*dream_b, prompts, config)
    assert texts[:2] == [generate(*dream_b, prompt, config) for prompt in prompts[:2]]
    assert len({texts[0], texts[2], texts[3]}) == 3
    assert texts == generate_batch(*dream_b, prompts, config)
    assert [texts[0], texts[2], texts[3], texts[1]] == generate_batch(*dream_b, [prompts[at] for at in (0, 2, 3, 1)], config)


def test_an_answer_that_has_reached_its_stop_text_is_forwarded_no_more(pocket, forwarded):
    config = GenerationConfig(max_tokens=24, until=("return",), window="tree")
    histories = [alone(pocket, prompt, config) for prompt in PROMPTS]
    one_by_one = sum(forwarded)
    forwarded.clear()
    *_, last = stream_batch(*pocket, PROMPTS, config)
    assert sum(forwarded) == one_by_one == sum(step.positions for step in last)
    assert [step.tokens.tolist() for step in last] == [history[-1].tokens.tolist() for history in histories]


MIXED = [
    {"window": "tree", "max_tokens": 40},
    {"window": "tree:rows=8", "max_tokens": 24, "rule": "leftmost"},
    {"window": "sliding", "max_tokens": 60, "temperature": 0.9, "top_p": 0.8},
    {"window": "whole", "rule": "schedule", "max_tokens": 20, "alg": "origin"},
    {"window": "sliding", "max_tokens": 33, "rule": "entropy-bound:gamma=0.5"},
    {"window": "drafts:ahead=3", "max_tokens": 16, "rule": "threshold", "top_k": 3},
    {"window": "blocks-dual:size=8", "max_tokens": 30, "rule": "threshold:tau=0.7"},
]


def add(batch, loaded, prompt, config):
    canvas = canvas_of(loaded[1], prompt, config)
    forbidden = forbidden_ids(loaded[1], loaded[0].config.vocab_size)
    return batch.add(canvas, rule_for(config), window_for(config), config, forbidden=forbidden)


def test_canvases_of_any_settings_join_at_any_step_and_become_what_they_are_alone(dream_b):
    configs = [GenerationConfig(seed=number, **fields) for number, fields in enumerate(MIXED)]
    prompts = [dream_b[1].encode(PROMPTS[number % 3]) for number in range(len(configs))]
    batch, joined, found = Batch(dream_b[0]), [], {}
    while batch or len(joined) < len(configs):
        if len(joined) < len(configs):
            joined.append(add(batch, dream_b, prompts[len(joined)], configs[len(joined)]))
        steps = batch.step()
        assert set(batch._rows) <= set(steps) <= set(joined)
        for number, step in steps.items():
            found.setdefault(number, []).append(step.tokens.tolist())
    for number, prompt, config in zip(joined, prompts, configs, strict=True):
        assert found[number] == [step.tokens.tolist() for step in alone(dream_b, prompt, config)], config


def test_a_canvas_that_is_cancelled_leaves_at_once_and_frees_its_memory(dream_b, forwarded):
    config, prompts = GenerationConfig(max_tokens=60), [dream_b[1].encode(prompt) for prompt in PROMPTS]
    batch = Batch(dream_b[0])
    first, second = (add(batch, dream_b, prompt, config) for prompt in prompts[:2])
    batch.step()
    gone, canvas = weakref.ref(batch._rows[first]._window_state), batch._rows[first]._canvas
    batch.cancel(first)
    batch.cancel(first)
    assert gone() is None and first not in batch and second in batch and canvas is not None
    batch.step()  # its forward was running already
    forwarded.clear()
    found = {}
    while batch:
        found |= batch.step()
    assert list(found) == [second]
    assert set(forwarded) == {32}
    assert found[second].tokens.tolist() == alone(dream_b, prompts[1], config)[-1].tokens.tolist()
    assert batch.step() == {}


@pytest.mark.parametrize("window", ["tree", "sliding", "whole"])
def test_what_is_computed_for_one_canvas_does_not_reach_another(dream_b, window):
    """In the same forwards as others of any text, a canvas has the same hidden states to the last few bits."""
    config = GenerationConfig(max_tokens=30, window=window, rule="threshold")
    prompts = [dream_b[1].encode(prompt) for prompt in PROMPTS]
    (one,) = {step.scores.tobytes() for step in alone(dream_b, prompts[2], config)[:1]}
    rows = next(stream_batch(*dream_b, prompts, config))
    np.testing.assert_allclose(np.frombuffer(one, np.float32), rows[2].scores, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles on a CPU with g++")
@pytest.mark.parametrize("window", ["tree", "sliding"])
def test_a_process_that_answers_500_prompts_traces_its_compiled_functions_a_few_times(dream_b, monkeypatch, window):
    traces = []

    def counted(gate, up):
        traces.append(gate.shape)
        return transformer.swiglu(gate, up)

    monkeypatch.setattr(transformer, "_swiglu", mx.compile(counted, shapeless=True))
    monkeypatch.setattr(transformer, "on_gpu", lambda: True)
    for number in range(500):
        prompt = list(range(1, 2 + 7 * number % 90))
        generate(*dream_b, prompt, GenerationConfig(max_tokens=6 + number % 5, window=window, rule="threshold:tau=0.1"))
    assert 1 <= len(traces) <= 3
