"""Windows, against a slow plain oracle and against what must hold for any window."""

import shutil
from collections import Counter
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlx_diffucoder import GenerationConfig, Hooks, load, stream_batch, stream_generate
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.decoding.windows.drafts import Choices, draft_sets, drafts_of
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import Answer, canvas_of

from ..conftest import DATA
from . import oracle

RULES = [
    "schedule",
    "threshold:tau=0.4",
    "joint:tau=0.1",
    "entropy-bound:gamma=9",
    "leftmost",
]
WINDOWS = ["whole", "sliding:width=1,suffix=0", "sliding:width=5,suffix=2", "sliding:width=9,refresh=3"]
WINDOWS += ["blocks:size=4", "blocks-prefix:size=5", "blocks-dual:size=3", "drafts:ahead=3", "ahead:block=4"]
PROMPTS = [[3, 5, 7, 11, 13, 17, 19], [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22], [1]]


LENGTH = 14
"""Tokens of an answer that the plain oracle decodes, too."""
PLAIN_WINDOWS = {
    "whole": None,
    "sliding:width=1,suffix=0": partial(oracle.Sliding, width=1, suffix=0),
    "sliding:width=5,suffix=3": partial(oracle.Sliding, width=5, suffix=3),
    "sliding:width=9,suffix=2,refresh=3": partial(oracle.Sliding, width=9, suffix=2, refresh=3),
    "sliding:width=40,suffix=8": partial(oracle.Sliding, width=40, suffix=8),
    "blocks:size=5": partial(oracle.Blocks, size=5, cache="none"),
    "blocks-prefix:size=5": partial(oracle.Blocks, size=5, cache="prefix"),
    "blocks-dual:size=1": partial(oracle.Blocks, size=1, cache="dual"),
    "blocks-dual:size=5": partial(oracle.Blocks, size=5, cache="dual"),
    "blocks-dual:size=32": partial(oracle.Blocks, size=32, cache="dual"),
    "drafts:ahead=4": None,
}
PLAIN_RULES = {
    "schedule": partial(oracle.Schedule, steps_planned=LENGTH),
    "threshold:tau=0.4": partial(oracle.Threshold, tau=0.4),
    "joint:tau=0.1": partial(oracle.Joint, tau=0.1),
    "entropy-bound:gamma=6": partial(oracle.EntropyBound, gamma=6),
    "leftmost": oracle.Leftmost,
}


def pairs(rules=tuple(PLAIN_RULES), windows=tuple(PLAIN_WINDOWS)):
    """Every rule with every window. One rule with all windows, and a third of the other pairs, are enough for each change."""
    for number, (rule, window) in enumerate(product(rules, windows)):
        quick = rule.startswith("threshold") or number % 3 == 0
        yield pytest.param(rule, window, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("rule", "window"), [*pairs()])
def test_every_rule_on_every_window_equals_a_plain_oracle_at_every_step(dream_b, rule, window):
    config = GenerationConfig(max_tokens=LENGTH, rule=rule, window=window)
    history = [step.tokens.tolist() for step in stream_generate(*dream_b, PROMPTS[0], config)]
    canvas = canvas_of(dream_b[1], PROMPTS[0], config)
    expected = oracle.decode(dream_b, PLAIN_WINDOWS[window], PLAIN_RULES[rule](), canvas)
    assert len(history) == len(expected) > 1
    assert history[:-1] == expected[:-1]


def test_a_cache_that_grows_equals_the_plain_oracle(dream_b):
    config = GenerationConfig(max_tokens=150, rule="threshold:tau=0.5", window="sliding:width=30,suffix=9")
    history = [step.tokens.tolist() for step in stream_generate(*dream_b, PROMPTS[1], config)]
    window = partial(oracle.Sliding, width=30, suffix=9)
    expected = oracle.decode(dream_b, window, oracle.Threshold(tau=0.5), canvas_of(dream_b[1], PROMPTS[1], config))
    assert len(history) == len(expected) > 2
    assert history[:-1] == expected[:-1]


@pytest.mark.parametrize("window", PLAIN_WINDOWS)
@pytest.mark.parametrize("rule", ["threshold:tau=0.4", "leftmost"])
def test_a_model_without_a_shift_is_decoded_as_the_plain_oracle_decodes_it(dream_b, monkeypatch, rule, window):
    """The same weights, read as if each position's own output predicted it."""
    monkeypatch.setattr(type(dream_b[0]), "shift", 0)
    mask = dream_b[1].mask_id
    # A masked first token has a prediction of its own here. The plain blocks do not know masks in a prompt.
    prompt = PROMPTS[0] if window.startswith("blocks") else [mask, *PROMPTS[0]]
    config = GenerationConfig(max_tokens=LENGTH, rule=rule, window=window)
    history = [step.tokens.tolist() for step in stream_generate(*dream_b, prompt, config)]
    expected = oracle.decode(dream_b, PLAIN_WINDOWS[window], PLAIN_RULES[rule](), canvas_of(dream_b[1], prompt, config))
    assert len(history) == len(expected) > 1
    assert history[:-1] == expected[:-1]


HOLES = [([3, 5, 7, 11, 13], 4), ([17, 19, 23, 29, 31, 37, 41], 13), ([2], 6), ([43, 47, 53, 59, 61, 67, 71, 73], 0)]


@pytest.mark.parametrize(
    ("rule", "window"), [*pairs([*PLAIN_RULES][1:], [name for name in PLAIN_WINDOWS if name.startswith(("whole", "sliding"))])]
)
def test_holes_in_a_text_are_filled_as_a_plain_oracle_fills_them_at_every_step(dream_b, rule, window):
    model, tokenizer = dream_b
    special = {"mask_id": tokenizer.mask_id, "pad_id": tokenizer.pad_id, "end_ids": tokenizer.end_ids}
    texts, lengths = [text for text, _ in HOLES], [count for _, count in HOLES][:-1]
    canvas = Canvas.around(texts, lengths, **special)
    config = GenerationConfig(rule=rule, window=window)
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size)
    steps = denoise(model, [canvas], rule_for(config), window_for(config), config, forbidden=forbidden)
    history = [step.tokens.tolist() for (step,) in steps]
    expected = oracle.decode(dream_b, PLAIN_WINDOWS[window], PLAIN_RULES[rule](), canvas)
    assert len(history) == len(expected) > 1
    assert history[:-1] == expected[:-1]


@pytest.mark.parametrize("rule", RULES)
def test_refreshed_at_every_step_and_as_wide_as_the_canvas_it_equals_the_whole(dream_b, rule):
    for prompt in PROMPTS:
        whole = GenerationConfig(max_tokens=20, rule=rule, window="whole")
        frozen = GenerationConfig(max_tokens=20, rule=rule, window="sliding:width=64,refresh=1")
        for one, other in zip(stream_generate(*dream_b, prompt, whole), stream_generate(*dream_b, prompt, frozen), strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()


def test_without_refresh_it_does_not_equal_the_whole_and_forwards_less(dream_b):
    def last(window):
        *_, step = stream_generate(*dream_b, PROMPTS[1], GenerationConfig(max_tokens=60, rule="schedule", window=window))
        return step

    whole, frozen = last("whole"), last("sliding:width=8,suffix=2")
    assert frozen.positions < whole.positions / 3


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_slides_each_row_as_alone(dream_b, rule):
    config = GenerationConfig(max_tokens=16, rule=rule, window="sliding:width=6,suffix=2")
    together = list(stream_batch(*dream_b, PROMPTS, config))
    for row, prompt in enumerate(PROMPTS):
        *_, alone = stream_generate(*dream_b, prompt, config)
        ends = [i for i in range(len(prompt), len(alone.tokens)) if alone.tokens[i] in dream_b[1].end_ids]
        text = slice(0, ends[0] + 1 if ends else None)
        assert together[-1][row].tokens[text].tolist() == alone.tokens[text].tolist()


def test_the_cost_does_not_grow_with_the_canvas(first_pocket):
    prompt = "Implement process(k): return whether k is a prime number."
    steps = {}
    for max_tokens in (64, 256, 1024):
        config = GenerationConfig(max_tokens=max_tokens, rule="threshold", window="sliding")
        *_, steps[max_tokens] = stream_generate(*first_pocket, prompt, config)
    assert steps[1024].positions <= 1.1 * steps[64].positions
    assert steps[256].nfe == steps[64].nfe


@pytest.mark.slow
def test_stopping_at_the_end_changes_no_token_of_the_text(pocket):
    """The reference decoder goes on after the end token; the text is the same."""
    model, tokenizer = pocket
    prompt = "Implement process(k): return whether k is a prime number."
    *_, stopped = stream_generate(model, tokenizer, prompt, GenerationConfig.preset("exact", max_tokens=56, alg="maskgit_plus"))
    *_, whole = stream_generate(model, tokenizer, prompt, GenerationConfig(max_tokens=56, alg="maskgit_plus", reference=True))
    assert stopped.tokens.tolist() == whole.tokens.tolist()


@pytest.mark.parametrize(
    "options", [{}, {"alg": "maskgit_plus"}, {"steps": 9}, {"rule": "threshold:tau=0.5"}, {"temperature": 1.0}]
)
@pytest.mark.parametrize("ahead", [1, pytest.param(2, marks=pytest.mark.slow), 8])
def test_drafts_decode_as_the_whole_canvas_at_every_step(dream_b, options, ahead):
    for prompt in PROMPTS[:2]:
        whole = list(stream_generate(*dream_b, prompt, GenerationConfig.preset("exact", max_tokens=12, seed=1, **options)))
        drafts = GenerationConfig.preset("exact", max_tokens=12, seed=1, **options | {"window": f"drafts:ahead={ahead}"})
        for one, other in zip(whole, stream_generate(*dream_b, prompt, drafts), strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert other.nfe <= one.nfe


def test_drafts_fill_in_the_surest_tokens_that_are_not_committed_yet():
    choices = Choices(np.array([1, 2, 3, 4]), np.array([11, 12, 13, 14]), np.array([0.1, 0.9, 0.5, 0.7]))
    canvas = np.array([5, MASK, 12, MASK, MASK])  # 12, the surest of all, is committed
    drafts = drafts_of(canvas, MASK, choices, [frozenset(), frozenset({0}), frozenset({1}), frozenset({0, 2}), frozenset({7})])
    assert drafts.tolist() == [
        [5, MASK, 12, MASK, MASK],
        [5, MASK, 12, MASK, 14],
        [5, MASK, 12, 13, MASK],
        [5, 11, 12, MASK, 14],
        [5, MASK, 12, MASK, MASK],
    ]


def test_draft_sets_grow_by_one_guess_and_meet_where_two_change_places():
    sets = draft_sets(8)
    assert sets[0] == frozenset()
    assert len(set(sets)) == 8
    for one in sets[1:]:
        assert any(one - {rank} in sets for rank in one)
    assert {frozenset({0}), frozenset({1}), frozenset({0, 1})} <= set(sets)
    assert draft_sets(3) == sets[:3]


@pytest.mark.parametrize("window", ["whole", "sliding:width=9"])
def test_committed_positions_of_every_row_are_what_changed(dream_a, window):
    """Positions are counted from the row's first token, whatever padding stands before it in a batch."""
    mask = dream_a[1].mask_id
    config = GenerationConfig(max_tokens=20, rule="threshold:tau=0.3", window=window)
    before = [np.array([*prompt, *[mask] * 20]) for prompt in PROMPTS]
    *history, _last = stream_batch(*dream_a, PROMPTS, config)  # after the last step, padding takes the place of masks
    for rows in history:
        for row, step in enumerate(rows):
            assert step.committed.tolist() == np.flatnonzero(before[row] != step.tokens).tolist()
            assert (before[row][step.committed] == mask).all()
            assert len(step.scores) == len(step.committed)
            before[row] = step.tokens
    assert history


def test_the_next_forward_runs_while_the_caller_has_a_step(dream_a, monkeypatch):
    model, tokenizer = dream_a
    forwards = []
    backbone = type(model.model)
    plain = backbone.__call__
    monkeypatch.setattr(backbone, "__call__", lambda self, *args: forwards.append(1) or plain(self, *args))
    steps = stream_generate(model, tokenizer, PROMPTS[0], GenerationConfig(max_tokens=6, rule="schedule"))
    *early, last = [(step.nfe, len(forwards)) for step in steps]
    assert early == [(nfe, nfe + 1) for nfe in range(1, last[0])] != []
    assert last == (last[0], last[0])


@pytest.mark.parametrize("window", ["sliding:width=5,suffix=2,refresh=7", "blocks-dual:size=5", "blocks-prefix:size=5"])
def test_a_window_compiled_decodes_as_it_does_plainly(dream_a, monkeypatch, window):
    """SwiGLU is, on a GPU. On a CPU MLX compiles with the system's C++ compiler, if there is one."""
    if not shutil.which("g++"):
        pytest.skip("MLX compiles for a CPU with g++")
    config = GenerationConfig(max_tokens=20, rule="threshold:tau=0.3", window=window)
    plain = [step.tokens.tolist() for step in stream_generate(*dream_a, PROMPTS[0], config)]
    monkeypatch.setattr("mlx_diffucoder.models.transformer.on_gpu", lambda: True)
    assert [step.tokens.tolist() for step in stream_generate(*dream_a, PROMPTS[0], config)] == plain


def test_a_long_answer_slides_in_few_shapes(dream_a, monkeypatch):
    model, _tokenizer = dream_a
    shapes, backbone = [], type(model.model)
    plain = backbone.__call__
    monkeypatch.setattr(backbone, "__call__", lambda self, *args: shapes.append(args[0].shape) or plain(self, *args))
    config = GenerationConfig(max_tokens=200, rule="threshold:tau=0.3", window="sliding:width=24,suffix=4")
    list(stream_generate(*dream_a, PROMPTS[0], config))
    assert len(shapes) > 10
    assert len(set(shapes)) <= 6
    assert all(width % 8 == 0 for _rows, width in shapes)


def test_blocks_can_go_on_to_the_end_of_the_canvas_as_published(pocket):
    def last(window):
        prompt = "Implement process(k): return whether k is even."
        *_, step = stream_generate(*pocket, prompt, GenerationConfig(max_tokens=48, rule="threshold", window=window))
        return step

    stopped, gone_on = last("blocks-dual:size=12"), last("blocks-dual:size=12,stop=0")
    ends = np.flatnonzero(np.isin(stopped.tokens[-48:], list(pocket[1].end_ids)))
    assert gone_on.nfe >= stopped.nfe + 2
    assert gone_on.tokens[-48:][: ends[0] + 1].tolist() == stopped.tokens[-48:][: ends[0] + 1].tolist()


@pytest.mark.parametrize("window", WINDOWS)
def test_an_answer_ends_at_the_ids_of_the_configuration_or_at_none(dream_b, monkeypatch, window):
    def ends(end_ids):
        config = GenerationConfig(max_tokens=20, rule="leftmost", window=window, end_ids=end_ids)
        *_, step = stream_generate(*dream_b, PROMPTS[0], config)
        return Answer.of(dream_b[1], step, len(step.tokens) - 20, config)

    endless = ends(())
    assert not endless.ended and endless.useful_tokens == 20
    end = endless.ids[9]
    assert ends([end]).ids == endless.ids[: endless.ids.index(end)]
    monkeypatch.setattr(dream_b[1], "end_ids", frozenset({end}))
    assert ends(None) == ends([end])
    assert ends(None).ended


def test_drafts_decode_a_batch_as_the_whole_canvas(dream_b):
    def canvases(window):
        config = GenerationConfig(max_tokens=9, rule="schedule", window=window)
        return [[row.tokens.tolist() for row in rows] for rows in stream_batch(*dream_b, PROMPTS, config)]

    assert canvases("drafts:ahead=4") == canvases("whole")


@pytest.mark.slow
def test_drafts_save_forwards_on_a_trained_model(pocket):
    prompt = "Implement process(k): return whether k is a prime number."
    *_, whole = stream_generate(*pocket, prompt, GenerationConfig.preset("exact", max_tokens=64))
    *_, drafts = stream_generate(*pocket, prompt, GenerationConfig(max_tokens=64, window="drafts"))
    assert drafts.tokens.tolist() == whole.tokens.tolist()
    assert drafts.nfe * 2 < whole.nfe
    assert drafts.positions == (8 * drafts.nfe - 7) * len(whole.tokens)  # the first has nothing to draft from


def test_hooks_need_the_whole_canvas(loaded):
    look = Hooks(logits=lambda index, tokens, logits: logits)
    with pytest.raises(ConfigError, match="window must be 'whole'"):
        stream_generate(*loaded, [1, 2], GenerationConfig(window="sliding"), hooks=look)


MODEL, TOKENIZER = load(DATA / "dream-b")
MASK = TOKENIZER.mask_id


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.lists(st.one_of(st.integers(0, 752), st.just(757)), min_size=1, max_size=9), min_size=1, max_size=3),
    max_tokens=st.integers(1, 14),
    rule=st.sampled_from(RULES),
    window=st.sampled_from([*WINDOWS, "tree:rows=8", "tree:rows=13"]),
    alg=st.sampled_from(["entropy", "maskgit_plus", "topk_margin"]),
    temperature=st.sampled_from([0.0, 1.0]),
    top_p=st.sampled_from([1.0, 0.7]),
    top_k=st.sampled_from([0, 5]),
    seed=st.integers(0, 9),
)
def test_any_rule_on_any_window_ends_fills_every_mask_and_touches_nothing_else(
    prompts, max_tokens, rule, window, alg, temperature, top_p, top_k, seed
):
    assume(not (window.startswith("tree") and rule == "schedule"))
    config = GenerationConfig(
        max_tokens=max_tokens, rule=rule, window=window, alg=alg, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    history = list(stream_batch(MODEL, TOKENIZER, prompts, config))
    masks = sum(prompt.count(757) + max_tokens for prompt in prompts)
    assert history[-1][0].nfe <= masks + max(map(len, prompts))
    for row, prompt in enumerate(prompts):
        last = history[-1][row].tokens
        assert TOKENIZER.mask_id not in last
        assert last.max() <= TOKENIZER.known_ids.max()
        assert [kept for kept, given in zip(last, prompt, strict=False) if given != 757] == [t for t in prompt if t != 757]
        touched = Counter(np.concatenate([step[row].committed for step in history]).tolist())
        assert max(touched.values(), default=0) <= 1


@pytest.mark.parametrize("window", WINDOWS)
def test_a_step_reports_which_positions_were_forwarded(dream_b, window):
    config = GenerationConfig(max_tokens=30, rule="schedule", window=window, seed=0)
    before = 0
    for step in stream_generate(*dream_b, PROMPTS[0], config):
        (first, end), last = step.window, len(step.tokens) - 1
        forwarded, before = step.positions - before, step.positions
        assert ((first < step.committed) & (step.committed <= end)).all()  # predicted one to the left
        if window.startswith(("whole", "drafts")):
            assert (first, end) == (0, last + 1)
        else:
            assert -(-(end - first + (end <= last)) // 8) * 8 == -(-forwarded // 8) * 8


def test_in_a_batch_a_step_reports_them_for_its_own_row(dream_b):
    config = GenerationConfig(max_tokens=20, window="sliding:width=5,suffix=2")
    rows = next(stream_batch(*dream_b, PROMPTS[:2], config))
    # 7 and 11 tokens of the prompt, 5 + 2 masks, and more until they make, with the last position, a multiple of 8.
    assert [row.window for row in rows] == [(0, 15), (0, 23)]
