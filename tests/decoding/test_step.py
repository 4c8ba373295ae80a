"""One step: measured in parts, without sorting the vocabulary, and again with it sorted where that is not enough."""

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.decoding import sampling, step
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.rules.block_schedule import BlockSchedule
from mlx_diffucoder.decoding.sampling import draw
from mlx_diffucoder.decoding.step import StepInput, take_steps
from mlx_diffucoder.decoding.windows.base import ForwardOutput
from mlx_diffucoder.errors import CheckpointError

VOCAB = 40_000  # 2,500 blocks, of which a nucleus without a sort looks into 512
MASK = VOCAB - 1
KEY = mx.random.key(3)
SPAN = (0, 1)


def run_step(logits, state=None, **options):
    """A step on rows of logits, all masked, and the rule's state after it; `hidden` is the row's number."""
    config = GenerationConfig(window="whole", seed=0, **options)
    rule = rule_for(config)
    rows = logits.shape[0]
    model = SimpleNamespace(logits=lambda hidden: mx.array(logits)[hidden[..., 0]])
    positions = np.arange(rows, dtype=np.int32)
    masked = np.ones_like(positions, dtype=np.bool_)
    output = ForwardOutput(positions, masked, mx.arange(rows)[None, :, None], rows, SPAN)
    quota, forbidden = np.array([rows]), mx.arange(VOCAB) == MASK
    given = StepInput(output, np.full(rows, MASK, dtype=np.int32), state or rule.open(), quota, KEY, config, forbidden)
    return take_steps(model, [given])[0]


def rows_of(scale, count=4):
    return (np.random.default_rng(1).normal(size=(count, VOCAB)) * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [0.5, 9])  # a nucleus of thousands, which takes the sort, and one of a few
def test_a_nucleus_that_is_not_all_there_is_measured_with_a_sort(scale, monkeypatch):
    logits = rows_of(scale)
    sorts = []

    def spy(*args, sort):
        sorts.append(sort)
        return draw(*args, sort=sort)

    monkeypatch.setattr(sampling, "draw", spy)
    result, _ = run_step(logits, rule="threshold:tau=0", top_p=0.5)
    assert sorts == ([False, True] if scale < 1 else [False])
    _tokens, probs, _ = draw(mx.where(mx.arange(VOCAB) == MASK, -mx.inf, mx.array(logits)), GenerationConfig(top_p=0.5), KEY)
    assert result.chosen.tolist() == mx.argmax(probs, axis=-1).tolist()
    assert np.allclose(result.scores, np.array((probs * mx.log(probs + 1e-10)).sum(axis=-1)), atol=1e-4)


def test_a_rule_that_remembers_has_seen_such_a_step_once():
    logits = rows_of(0.5)
    first, state = run_step(logits, BlockSchedule(block_steps=2).open(), top_p=0.5)
    second, _ = run_step(logits, state, top_p=0.5)
    assert first.commit.sum() == second.commit.sum() == 2  # the block's second share would be spent if it saw a step twice


@pytest.mark.parametrize("rule", ["threshold:tau=0.3", "entropy-bound:gamma=9"])
def test_rows_measured_in_parts_are_measured_as_all_at_once(rule, monkeypatch):
    logits = rows_of(4, count=11)
    whole, _ = run_step(logits, rule=rule)
    monkeypatch.setattr(step, "ROWS", 3)
    parts, _ = run_step(logits, rule=rule)
    assert parts.chosen.tolist() == whole.chosen.tolist()
    assert parts.commit.tolist() == whole.commit.tolist()
    assert parts.scores.tolist() == whole.scores.tolist()


def test_rows_measured_in_different_parts_are_drawn_independently(monkeypatch):
    monkeypatch.setattr(step, "ROWS", 3)
    drawn, _ = run_step(np.zeros((12, VOCAB), dtype=np.float32), rule="threshold", temperature=1.0)
    assert len(set(drawn.chosen.tolist())) == 12


def test_only_a_part_of_the_logits_is_in_memory(monkeypatch):
    head = mx.random.normal((4, VOCAB))
    mx.eval(head)
    config = GenerationConfig(window="whole", seed=0)

    def peak(rows):
        model = SimpleNamespace(logits=lambda hidden: hidden @ head)
        positions = np.arange(rows, dtype=np.int32)
        masked = np.ones_like(positions, dtype=np.bool_)
        output = ForwardOutput(positions, masked, mx.random.normal((1, rows, 4)), rows, SPAN)
        mx.eval(output.hidden)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        rule = rule_for(config)
        take_steps(model, [StepInput(output, np.full(rows, MASK, dtype=np.int32), rule.open(), np.array([rows]), KEY, config)])
        return mx.get_peak_memory() - before

    assert peak(512) < 1.3 * peak(64)


def test_what_is_not_a_number_is_reported():
    with pytest.raises(CheckpointError, match="not a number"):
        run_step(rows_of(1) * np.float32(np.nan))
