"""What a run says that it costs, and what a window asks for, against what goes through the network."""

import pytest

from mlx_diffucoder import GenerationConfig, fill, stream_batch
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.decoding.windows.sliding import MULTIPLE
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import canvas_of

PROMPTS = [[3, 5, 7, 11, 13, 17, 19], [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22], [1]]
WINDOWS = ["whole", "blocks:size=5", "blocks-prefix:size=5", "blocks-dual:size=5", "drafts:ahead=4"]
WINDOWS += ["sliding:width=5,suffix=2", "sliding:width=9,suffix=0,refresh=3", "tree:rows=8"]


@pytest.fixture
def forwards(dream_b, monkeypatch):
    """The shape `[B, L]` of the tokens of each forward."""
    model, shapes = dream_b[0], []
    backbone = type(model.model)
    plain = backbone.__call__
    monkeypatch.setattr(backbone, "__call__", lambda self, ids, *args: shapes.append(ids.shape) or plain(self, ids, *args))
    return shapes


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
@pytest.mark.parametrize("window", WINDOWS)
def test_forwards_and_positions_of_a_run_are_those_that_each_row_had_in_the_network(dream_b, forwards, window, prompts):
    *_, last = stream_batch(*dream_b, prompts, GenerationConfig(max_tokens=14, rule="threshold:tau=0.4", window=window))
    assert len(forwards) == max(step.nfe for step in last) > 1
    assert sum(rows * positions for rows, positions in forwards) == sum(step.positions for step in last)


@pytest.mark.parametrize("window", ["whole", "drafts:ahead=3", "sliding:width=3"])
@pytest.mark.parametrize("hole", [3, None])
def test_forwards_and_positions_of_an_infill_are_those_of_all_canvases_and_scores(dream_b, forwards, window, hole):
    filled = fill(*dream_b, ["a = ", hole, "\n"], GenerationConfig(max_tokens=4, window=window), tries=2)
    assert len(forwards) == filled.nfe
    assert sum(rows * positions for rows, positions in forwards) == filled.positions


@pytest.mark.parametrize("rule", ["leftmost", "threshold:tau=0.4"])
@pytest.mark.parametrize("window", WINDOWS)
def test_the_extent_of_a_window_is_the_most_that_it_forwards_and_not_much_more(dream_b, monkeypatch, window, rule):
    known, masks = len(PROMPTS[0]), 40
    config = GenerationConfig(max_tokens=masks, rule=rule, window=window)
    canvas, subject, outputs = canvas_of(dream_b[1], PROMPTS[0], config), window_for(config), []
    state = type(subject.open(dream_b[0], canvas))
    plain = state.forward

    def forward(self, *args):
        outputs.append((yield from plain(self, *args)))
        return outputs[-1]

    monkeypatch.setattr(state, "forward", forward)
    forbidden = forbidden_ids(dream_b[1], dream_b[0].config.vocab_size)
    list(denoise(dream_b[0], [canvas], rule_for(config), subject, config, forbidden=forbidden))
    positions, candidates = subject.extent(known, masks)
    most, most_candidates = max(one.forwarded for one in outputs), max(len(one.positions) for one in outputs)
    if window.startswith("sliding"):  # the width of a forward is a multiple
        assert positions - MULTIPLE < most < positions + MULTIPLE
        assert most_candidates == candidates
    else:
        assert most == positions
        assert candidates - known < most_candidates <= candidates


def test_the_extent_of_a_window_ends_where_its_canvas_does():
    def extent(window, known, masks):
        return window_for(GenerationConfig(window=window)).extent(known, masks)

    assert extent("sliding:width=24,suffix=4", 7, 1000) == (7 + 24 + 4 + MULTIPLE, 24)
    assert extent("sliding:width=24,suffix=4", 7, 10) == (17, 10)
    assert extent("sliding:width=24,suffix=4,refresh=9", 7, 1000) == (1007, 24)
    assert extent("blocks-dual:size=32", 7, 1000) == (1007, 32)
    assert extent("blocks-dual:size=32", 50, 1000) == (1050, 50)  # masks in the prompt
    assert extent("drafts:ahead=3", 7, 1000) == (3 * 1007, 1000)
    assert extent("tree:rows=32", 7, 1000) == (7 + 29, 32)
    assert extent("tree:rows=32", 7, 10) == (32, 17)
    assert extent("whole", 7, 1000) == (1007, 1000)


@pytest.mark.parametrize(
    "fields", [{"reference": True}, *({"window": one} for one in ("whole", "sliding", "blocks-dual", "tree"))], ids=str
)
def test_the_rows_of_forwards_are_the_positions_of_the_batch_without_its_prompts_own(dream_b, fields):
    prompts = [[3, 5, 7, 11, 13], [2, 4]]
    *_, steps = stream_batch(*dream_b, prompts, GenerationConfig(max_tokens=12, **fields))
    assert [len(step.rows) for step in steps] == [step.nfe for step in steps]
    longest = max((step.rows for step in steps), key=len)
    assert sum(longest) == sum(step.positions for step in steps) - 7
    assert all(step.rows == longest[: step.nfe] for step in steps)
    if fields == {"reference": True}:
        assert longest[:2] == (2 * 17 - 7, 2 * 17)  # padding included
    if fields == {"window": "whole"}:
        assert longest[:2] == (2 * 12, 17 + 14)
