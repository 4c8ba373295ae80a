"""The fast loop: what must hold in every run, and how it is called."""

from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, generate, generate_batch, stream_batch, stream_generate
from mlx_diffucoder.best_of import best_of
from mlx_diffucoder.config import ALGORITHMS
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.result import Stats
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.errors import PromptError
from mlx_diffucoder.generation import stream_traced
from mlx_diffucoder.trace.reader import read_trace
from mlx_diffucoder.trace.writer import trace_writer

PROMPT = [1, 2, 3, 4]
exact = partial(GenerationConfig.preset, "exact")


def run(loaded, **options):
    config = exact(**{"max_tokens": 12, "seed": 0, **options})
    return list(stream_generate(*loaded, PROMPT, config))


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("steps", [1, 5, 12, 40])
def test_every_mask_is_filled_and_nothing_else_is_touched(dream_b, alg, temperature, steps):
    _model, tokenizer = dream_b
    history = run(dream_b, alg=alg, temperature=temperature, steps=steps)
    before = np.array(PROMPT + [tokenizer.mask_id] * 12)
    for step in history:
        changed = np.flatnonzero(step.tokens != before)
        assert changed.tolist() == step.committed.tolist()
        assert (before[changed] == tokenizer.mask_id).all()
        assert len(step.scores) == len(changed) > 0
        before = step.tokens
    assert tokenizer.mask_id not in before
    assert before.max() <= tokenizer.known_ids.max()
    assert len(history) <= min(steps, 12)


def test_a_step_that_commits_nothing_costs_no_forward(dream_b):
    history = run(dream_b, max_tokens=3, steps=30)
    assert [step.nfe for step in history] == list(range(1, len(history) + 1))
    assert len(history) <= 3
    assert history[-1].index == 29  # the schedule's last step takes what is left


def test_the_mask_token_and_unknown_ids_are_never_chosen(dream_b, monkeypatch):
    """With a head that prefers an id past the tokenizer and the mask token."""
    model, tokenizer = dream_b
    preferred, logits = mx.zeros((768,)).at[mx.array([tokenizer.mask_id, 765])].add(1e4), model.logits
    monkeypatch.setattr(model, "logits", lambda *args: logits(*args) + preferred)
    last = run(dream_b)[-1]
    assert last.tokens.max() <= tokenizer.known_ids.max()
    assert tokenizer.mask_id not in last.tokens


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"alg": "origin"}, {"alg_temp": 1.0}])
def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(dream_b, options):
    def final(seed):
        return run(dream_b, seed=seed, **options)[-1].tokens.tolist()

    assert final(7) == final(7)
    assert any(final(7) != final(seed) for seed in (8, 9))


def test_every_step_draws_anew(dream_b):
    """At the highest temperature all tokens are about equally probable, so the noise alone chooses."""
    config = GenerationConfig(max_tokens=12, temperature=1e6, seed=0, rule="threshold", window="sliding:width=1")
    *_, last = stream_generate(*dream_b, PROMPT, config)
    assert last.nfe == 12
    assert len(set(last.tokens[-12:].tolist())) > 9


def test_no_seed_is_a_fresh_one(dream_b):
    texts = {tuple(run(dream_b, seed=None, temperature=2.0)[-1].tokens.tolist()) for _ in range(4)}
    assert len(texts) > 1


def test_masks_in_the_prompt_are_filled_too(dream_b):
    model, tokenizer = dream_b
    prompt = [1, tokenizer.mask_id, 3]
    *_, last = stream_generate(model, tokenizer, prompt, exact(max_tokens=2))
    assert tokenizer.mask_id not in last.tokens
    assert (last.tokens[0], last.tokens[2]) == (1, 3)


@pytest.mark.parametrize("reference", [False, True])
def test_a_row_with_fewer_masks_than_the_mean_keeps_what_it_knows(dream_b, reference):
    """The reference re-masks known tokens here; that is its one quirk nobody wants."""
    model, tokenizer = dream_b
    mask = tokenizer.mask_id
    prompts = [[1, mask, mask, mask, mask, 2], [5, 6]]
    history = list(stream_batch(model, tokenizer, prompts, exact(max_tokens=2, steps=2, reference=reference)))
    for rows in history:
        assert rows[0].tokens[[0, 5]].tolist() == [1, 2]
        assert rows[1].tokens[:2].tolist() == [5, 6]
    left = sum((row.tokens == mask).sum() for row in history[-1])
    assert (left > 0) == reference  # which also leaves the fuller row unfinished


def test_a_batch_decodes_each_row_as_alone(dream_b):
    """Prompts of unequal length, equal masks: left padding must not change a token."""
    model, tokenizer = dream_b
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8, 9]]
    config = exact(max_tokens=6)
    together = list(stream_batch(model, tokenizer, prompts, config))
    for row, prompt in enumerate(prompts):
        alone = list(stream_generate(model, tokenizer, prompt, config))
        for rows, step in zip(together, alone, strict=True):
            assert rows[row].tokens.tolist() == step.tokens.tolist()
            assert rows[row].committed.tolist() == step.committed.tolist()


def test_batch_texts_are_those_of_the_rows(dream_b):
    config = exact(max_tokens=6)
    texts = generate_batch(*dream_b, ["one", "two three"], config)
    assert texts == [generate(*dream_b, prompt, config) for prompt in ("one", "two three")]
    assert texts[0] != texts[1]


def test_the_smallest_alg_temp_takes_the_best(dream_b):
    drawn = run(dream_b, alg_temp=1e-6, alg="maskgit_plus", steps=4)
    assert [step.tokens.tolist() for step in drawn] == [
        step.tokens.tolist() for step in run(dream_b, alg="maskgit_plus", steps=4)
    ]


def test_a_masked_first_token_is_predicted_alike_alone_and_padded(dream_b):
    mask = dream_b[1].mask_id
    config = exact(max_tokens=3)
    *_, alone = stream_generate(*dream_b, [mask, 5, 6], config)
    *_, together = stream_batch(*dream_b, [[mask, 5, 6], [1, 2, 3, 4, mask, 6, 7]], config)
    assert together[0].tokens[0] == alone.tokens[0]


@pytest.mark.parametrize("prompt", [b"hello", [1.7, 2], [True], ["a"], None, [[1, 2]], [-1], [768], []])
def test_what_is_no_prompt_is_refused_by_the_call(dream_b, prompt):
    with pytest.raises(PromptError, match="prompt"):
        stream_generate(*dream_b, prompt, exact(max_tokens=2))


def test_a_string_is_no_batch(dream_b):
    for call in (generate_batch, stream_batch):
        with pytest.raises(PromptError, match="list of prompts"):
            call(*dream_b, "hi")


def test_a_canvas_whose_logits_cannot_be_held_is_refused(dream_b, monkeypatch):
    monkeypatch.setattr("mlx_diffucoder.decoding.extent.memory_size", lambda: 3 * 10**6)
    with pytest.raises(PromptError, match="max_tokens 400 takes about") as caught:
        stream_generate(*dream_b, PROMPT, exact(max_tokens=400))
    assert caught.value.field == "max_tokens"
    stream_generate(*dream_b, PROMPT, exact(max_tokens=400, window="sliding"))


@pytest.mark.parametrize("window", ["sliding", "tree", "whole"])
def test_a_default_length_is_cut_to_what_is_left_of_the_context(dream_b, tmp_path, monkeypatch, window):
    model, tokenizer = dream_b
    monkeypatch.setattr(model, "config", replace(model.config, max_position_embeddings=24))
    config, long = GenerationConfig(window=window, seed=0), (PROMPT * 6)[:21]
    for prompts in ([long], [PROMPT, long]):
        *_, last = stream_batch(model, tokenizer, prompts, config)
        assert [len(step.tokens) - len(prompt) for step, prompt in zip(last, prompts, strict=True)] == [3] * len(prompts)
        assert len(generate_batch(model, tokenizer, prompts, config)) == len(prompts)
    *_, last = stream_traced(model, tokenizer, long, config, (tmp_path / "run.jsonl", ""))
    assert len(last.tokens) == 24
    assert read_trace(tmp_path / "run.jsonl").header["config"]["max_tokens"] == 3
    with trace_writer(tmp_path / "best.jsonl", tokenizer, config, "") as trace:
        assert len(best_of(model, tokenizer, long, config, 1, trace).answers[0].answer.ids) <= 3
    with pytest.raises(PromptError, match="max_tokens 256 does not fit"):
        stream_generate(model, tokenizer, long, GenerationConfig(window=window, max_tokens=256))


def test_positions_count_the_whole_canvas_once_a_forward(dream_b):
    for step in run(dream_b):
        assert step.positions == step.nfe * 16


def test_a_generation_that_is_broken_off_waits_for_the_forward_in_flight(dream_a, monkeypatch):
    """Under a forward that still runs, the interpreter crashes or hangs at its end."""
    from mlx_diffucoder import generation

    waited = []
    monkeypatch.setattr(generation.mx, "synchronize", lambda *_: waited.append(True))
    steps = generation.stream_generate(*dream_a, [5, 6, 7], GenerationConfig.preset("exact", max_tokens=8))
    next(steps)
    assert not waited
    del steps
    assert waited


def test_a_canvas_without_masks_is_one_step_that_changed_nothing_and_cost_nothing(dream_b):
    special = {"mask_id": dream_b[1].mask_id, "pad_id": 0, "end_ids": frozenset({7})}
    canvases, config = [Canvas.around(texts, [0], **special) for texts in ([[1, 2], [3]], [[4], [5]])], exact()
    ((first, second),) = denoise(dream_b[0], canvases, rule_for(config), window_for(config), config)
    assert (first.tokens.tolist(), second.tokens.tolist()) == ([1, 2, 3], [4, 5])
    for step in (first, second):
        assert (step.nfe, step.positions) == (0, 0)
        assert len(step.committed) == len(step.scores) == 0
    assert Stats(nfe=0, positions=0, useful_tokens=3, seconds=1, peak_memory_bytes=0).tokens_per_forward == 0
