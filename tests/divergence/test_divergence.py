"""How far two networks are from each other: every measure against a slow plain one, and against hands."""

import json
import subprocess
import sys
from itertools import combinations
from math import exp, isnan, log

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffucoder import DiffusionModel, ModelConfig, load
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.data import HELD_OUT, Text, encode_samples, read_samples
from mlx_diffucoder.divergence import kl as divergence_module
from mlx_diffucoder.divergence.forwards import Outputs, outputs, outputs_by_layer
from mlx_diffucoder.divergence.kl import Divergence, NotANumber, commit_order, order_agreement, readings
from mlx_diffucoder.divergence.masking import Masked, batches, masked_canvases
from mlx_diffucoder.errors import CheckpointError, TaskError
from mlx_diffucoder.evaluation import confidence_interval
from mlx_diffucoder.generation import forbidden_ids
from mlx_diffucoder.statistics import ratio_intervals

from ..conftest import DATA

LN2 = log(2)


def canvas(targets, text=0, ratio=1.0):
    """A canvas of `targets` behind one known token, all masked."""
    count = len(targets)
    tokens = np.array([0] + [9] * count, dtype=np.int32)
    return Masked(text, ratio, tokens, np.arange(1, count + 1, dtype=np.int32), np.array(targets, dtype=np.int32))


def given_logits(*pieces):
    """Outputs whose rows are the logits themselves."""
    return Outputs(tuple(mx.array(np.array(piece, dtype=np.float32)) for piece in pieces), lambda rows: rows)


ALLOWED = mx.array([False] * 4)


# The measures


def test_four_elements_by_hand():
    p, q = [1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 4, 1 / 4, 1 / 8, 3 / 8]
    a = given_logits([np.log(p), np.log(q)])
    b = given_logits([np.log(q), np.log(q)])
    (reading,) = readings(a, b, [canvas([0, 3])], ALLOWED)
    # 1/2 ln 2 + 0 + 0 + 1/8 ln 1/3
    assert reading.kl == pytest.approx([LN2 / 2 - log(3) / 8, 0], abs=1e-6)
    assert reading.same.tolist() == [False, True]
    assert reading.nll == pytest.approx([LN2, -log(3 / 8)], abs=1e-6)
    assert reading.other_nll == pytest.approx([2 * LN2, -log(3 / 8)], abs=1e-6)
    # H(p) = 7/4 ln 2 = 1.21 is below H(q) = 1.32: a commits the first first, as b does, where they tie.
    assert (reading.order, reading.first) == (1.0, True)
    mean = Divergence.of([reading])
    assert mean.kl == pytest.approx((LN2 / 2 - log(3) / 8) / 2, abs=1e-6)
    assert mean.top1 == 0.5
    assert mean.perplexity == pytest.approx((2 * 8 / 3) ** 0.5, abs=1e-5)
    assert mean.other_perplexity == pytest.approx((4 * 8 / 3) ** 0.5, abs=1e-5)


def test_ids_that_may_not_be_generated_have_no_probability():
    half = np.log([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    a, b = given_logits([[*half, 50.0]]), given_logits([[*half, -50.0]])
    (reading,) = readings(a, b, [canvas([1])], mx.array([False] * 4 + [True]))
    assert reading.kl == pytest.approx([0], abs=1e-6)
    assert reading.nll == pytest.approx([2 * LN2], abs=1e-6)
    assert reading.same.tolist() == [True]


def slow_reading(a, b, canvas, allowed):
    """Every measure of one canvas in plain loops and float64."""

    def distribution(logits):
        weights = {id: exp(logits[id] - max(logits)) for id in allowed}
        return {id: weight / sum(weights.values()) for id, weight in weights.items()}

    def sooner(entropies, i, j):
        return entropies[i] < entropies[j] or (entropies[i] == entropies[j] and i < j)

    p, q = [distribution(row) for row in a], [distribution(row) for row in b]
    kl = [sum(x[id] * log(x[id] / y[id]) for id in allowed) for x, y in zip(p, q, strict=True)]
    same = [max(allowed, key=x.get) == max(allowed, key=y.get) for x, y in zip(p, q, strict=True)]
    nll, other_nll = ([-log(x[t]) for x, t in zip(each, canvas.targets.tolist(), strict=True)] for each in (p, q))
    h, g = ([-sum(x[id] * log(x[id] + 1e-10) for id in allowed) for x in each] for each in (p, q))
    pairs = [sooner(h, i, j) == sooner(g, i, j) for i, j in combinations(range(len(a)), 2)]
    return kl, same, nll, other_nll, sum(pairs) / len(pairs) if pairs else None, h.index(min(h)) == g.index(min(g))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_readings_equal_slow_ones_however_they_are_cut(monkeypatch, chunk):
    monkeypatch.setattr(divergence_module, "CHUNK_BYTES", 4 * 11 * chunk)
    rng = np.random.default_rng(0)
    allowed = [0, 1, 2, 3, 5, 6, 7, 10]
    forbidden = mx.array([id not in allowed for id in range(11)])
    canvases = [canvas(rng.choice(allowed, size), text) for text, size in enumerate([4, 1, 7, 2])]
    a = rng.normal(scale=2, size=(14, 11)).astype(np.float32)
    b = (a + rng.normal(scale=0.7, size=a.shape)).astype(np.float32)
    found = readings(given_logits(a[:5], a[5:]), given_logits(b[:5], b[5:]), canvases, forbidden)
    start = 0
    for reading, own in zip(found, canvases, strict=True):
        end = start + len(own.positions)
        kl, same, nll, other_nll, order, first = slow_reading(a[start:end].tolist(), b[start:end].tolist(), own, allowed)
        start = end
        assert reading.canvas is own
        assert reading.kl == pytest.approx(kl, abs=1e-5)
        assert reading.same.tolist() == same
        assert reading.nll == pytest.approx(nll, abs=1e-5)
        assert reading.other_nll == pytest.approx(other_nll, abs=1e-5)
        assert reading.order == (None if order is None else pytest.approx(order))
        assert reading.first == first
    assert any(reading.order not in (None, 1.0) for reading in found)
    assert not all(reading.same.all() for reading in found)


def test_a_tiny_divergence_is_told_from_none():
    rng = np.random.default_rng(3)
    a = rng.normal(scale=4, size=(50, 3000)).astype(np.float32) + 20
    b = (a + rng.normal(scale=1e-3, size=a.shape)).astype(np.float32)
    canvases = [canvas([0] * 50)]
    (reading,) = readings(given_logits(a), given_logits(b), canvases, mx.array([False] * 3000))
    log_p, log_q = (x - x.max(1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (log_p, log_q))
    wanted = (np.exp(log_p) * (log_p - log_q)).sum(1)
    assert 1e-8 < wanted.min() < wanted.max() < 1e-6
    assert reading.kl == pytest.approx(wanted, abs=1.5e-7)
    assert reading.kl.mean() == pytest.approx(wanted.mean(), rel=0.03)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_order_agreement_counts_the_pairs(scores):
    first, second = (np.array(column, dtype=np.float32) for column in zip(*scores, strict=True))

    def sooner(score, i, j):
        return score[i] > score[j] or (score[i] == score[j] and i < j)

    pairs = [sooner(first, i, j) == sooner(second, i, j) for i, j in combinations(range(len(scores)), 2)]
    wanted = sum(pairs) / len(pairs) if pairs else None
    assert order_agreement(commit_order(first), commit_order(second)) == (None if wanted is None else pytest.approx(wanted))


def test_equal_scores_are_committed_from_the_left_as_the_decoder_does():
    assert commit_order(np.array([-1.0, -0.5, -1.0, -0.5])).tolist() == [1, 3, 0, 2]


def test_opposite_orders_agree_on_nothing():
    assert order_agreement(np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0])) == 0.0


def test_means_are_over_positions_and_for_the_commits_over_canvases():
    certain, even = [9.0, 0, 0, 0], [0.0, 0, 0, 0]
    a = given_logits([certain, even, even], [even])
    b = given_logits([certain, even, even], [certain])
    mean = Divergence.of(readings(a, b, [canvas([1, 1, 1]), canvas([2], text=1)], ALLOWED))
    kl = sum(0.25 * log(0.25 / (x / (exp(9) + 3))) for x in (exp(9), 1, 1, 1))
    assert (mean.canvases, mean.positions) == (2, 4)
    assert mean.kl == pytest.approx(kl / 4, rel=1e-5)
    assert mean.order == 1.0  # the canvas with one mask has no order
    assert mean.kl_interval[0] == pytest.approx(0, abs=1e-6)  # both draws may be of the first text
    assert mean.kl_interval[1] == pytest.approx(kl, rel=1e-5)  # or of the second


def test_without_two_masks_anywhere_there_is_no_order():
    a = given_logits([[1.0, 0, 0, 0]])
    mean = Divergence.of(readings(a, a, [canvas([0])], ALLOWED))
    assert (mean.order, mean.order_interval, mean.first) == (None, None, 1.0)


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_refused(reference, bad):
    good, broken = given_logits([[0.0, 1, 2, 3]]), given_logits([[0.0, 1, bad, 3]])
    pair = (broken, good) if reference else (good, broken)
    with pytest.raises(NotANumber) as caught:
        readings(*pair, [canvas([0])], ALLOWED)
    assert caught.value.reference is reference


def test_intervals_of_ratios_are_those_of_means_where_all_weigh_the_same():
    scores = np.random.default_rng(1).normal(size=40)
    (both,) = ratio_intervals(scores[:, None], np.ones((40, 1)))
    assert both == pytest.approx(confidence_interval(scores), abs=0.01)


def test_an_interval_of_nothing_is_not_a_number():
    ((low, high),) = ratio_intervals(np.zeros((3, 1)), np.zeros((3, 1)))
    assert isnan(low) and isnan(high)


# The masks


TEXTS = [Text("here:1", (1, 2), tuple(range(10, 10 + length))) for length in (1, 2, 3, 7, 40)]


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("ratios", [(0.25,), (0.25, 0.5, 0.75, 1.0), (0.1,), (1.0,)])
def test_each_token_is_masked_exactly_once_in_every_pair(ratios, draws):
    canvases = masked_canvases(TEXTS, 99, ratios=ratios, draws=draws)
    pairs = sum(draws if ratio < 1 else 1 for ratio in {min(ratio, 1 - ratio) or 1.0 for ratio in ratios})
    for index, text in enumerate(TEXTS):
        mine = [one for one in canvases if one.text == index]
        counts = np.bincount(np.concatenate([one.positions for one in mine]), minlength=len(text.prompt) + len(text.answer))
        assert counts[:2].tolist() == [0, 0]
        assert counts[2:].tolist() == [pairs] * len(text.answer)
        # Neighbours are a pair: what one masks the other shows.
        left = [set(one.positions.tolist()) for one in mine]
        while left:
            masked = left.pop(0)
            if len(masked) < len(text.answer):
                assert left.pop(0) == set(range(2, 2 + len(text.answer))) - masked
        for one in mine:
            whole = one.tokens.copy()
            whole[one.positions] = one.targets
            assert whole.tolist() == [*text.prompt, *text.answer]
            assert (one.tokens == 99).sum() == len(one.positions) > 0


def test_ratios_are_kept_and_come_with_their_complements():
    canvases = masked_canvases(TEXTS[-1:], 99, ratios=(0.25, 1.0))
    assert [(one.ratio, len(one.positions)) for one in canvases] == [(1.0, 40), (0.25, 10), (0.75, 30)]
    assert {one.ratio for one in masked_canvases(TEXTS, 99, ratios=(0.9,))} == {0.1, 0.9}


def test_masks_are_the_seeds_and_no_text_changes_anothers():
    def masks(texts, seed):
        return [one.positions.tolist() for one in masked_canvases(texts, 99, seed=seed)]

    few = masks(TEXTS[:4], 0)
    assert masks(TEXTS, 0)[: len(few)] == few
    assert masks(TEXTS, 1) != masks(TEXTS, 0)


def test_batches_are_of_one_length_and_lose_nothing():
    canvases = masked_canvases(TEXTS, 99, draws=4)
    cut = list(batches(canvases, most=100))
    assert [one for batch in cut for one in batch] == canvases
    for batch in cut:
        assert len({len(one.tokens) for one in batch}) == 1
        assert len(batch) == 1 or sum(len(one.tokens) for one in batch) <= 100
    assert max(map(len, cut)) > 1


# The networks


def ids(text, context=2048):
    def encoded(tokenizer):
        return encode_samples(read_samples(HELD_OUT, text), tokenizer, context)

    return encoded


@pytest.fixture(scope="module")
def canvases(first_pocket):
    return masked_canvases(ids(6)(first_pocket[1]), first_pocket[1].mask_id)


def test_outputs_are_of_the_rows_to_the_left_of_the_masks(loaded):
    model, tokenizer = loaded
    canvases = masked_canvases([Text("", (5, 6), (7, 8, 9, 10, 11)), Text("", (5,), (12, 13, 14))], tokenizer.mask_id)
    found = mx.concatenate(list(outputs(model, canvases).logits(4)))
    wanted = [model(mx.array(one.tokens)[None])[0, mx.array(one.positions - 1)] for one in canvases]
    assert mx.allclose(found, mx.concatenate(wanted), atol=1e-4)


@pytest.mark.parametrize("bits", [None, 4])
def test_layer_by_layer_gives_the_same_bits(checkpoint, tmp_path, bits):
    folder = checkpoint
    if bits:
        folder = convert(checkpoint, tmp_path / "out", ConvertConfig(quantize=True, q_bits=bits, q_group_size=32))
    model, tokenizer = load(folder)
    canvases = masked_canvases([Text("", (5, 6), tuple(range(7, 30))), Text("", (5,), (12, 13, 14))], tokenizer.mask_id)
    opened, told = [], []
    wanted = outputs(model, canvases)

    def open_it():
        opened.append(1)
        return load(folder, lazy=True)[0]

    found = outputs_by_layer(open_it, canvases, told.append, most_held=30)
    assert len(opened) > 2  # several groups, and the head
    assert sum(told) == len(canvases) * len(model.layers)
    for one, other in zip(wanted.logits(5), found.logits(5), strict=True):
        assert mx.array_equal(one, other)


def test_a_model_does_not_diverge_from_itself(first_pocket, canvases):
    model, tokenizer = first_pocket
    found = outputs(model, canvases)
    mean = Divergence.of(readings(found, found, canvases, forbidden_ids(tokenizer, model.config.vocab_size)))
    assert (mean.kl, mean.top1, mean.order, mean.first) == (0, 1, 1, 1)
    assert mean.perplexity == mean.other_perplexity
    assert mean.kl_interval == (0, 0)
    assert 1 < mean.perplexity < 3


@pytest.mark.slow
def test_fewer_bits_diverge_more(first_pocket, canvases, tmp_path):
    model, tokenizer = first_pocket
    reference, forbidden = outputs(model, canvases), forbidden_ids(tokenizer, model.config.vocab_size)
    means = {}
    for bits in (8, 4, 2):
        folder = convert(DATA / "pocket-1", tmp_path / str(bits), ConvertConfig(quantize=True, q_bits=bits, dtype="float32"))
        means[bits] = Divergence.of(readings(reference, outputs(load(folder)[0], canvases), canvases, forbidden))
    assert 0 < means[8].kl < means[4].kl / 10 < means[2].kl / 100
    assert means[8].order > means[4].order > means[2].order > 0.5
    assert means[8].top1 >= means[4].top1 > means[2].top1


def test_outputs_keep_the_head_they_were_made_with(dream_b, tmp_path):
    import mlx.nn as nn

    model, tokenizer = load(DATA / "dream-a")
    canvases = masked_canvases([Text("", (5, 6), (7, 8, 9))], tokenizer.mask_id)
    reference = outputs(model, canvases)
    before = mx.concatenate(list(reference.logits(100)))
    mx.eval(before)
    nn.quantize(model, group_size=32, bits=2)
    assert mx.array_equal(mx.concatenate(list(reference.logits(100))), before)


RESIDENT = """
import sys, mlx.core as mx
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.evaluation import Text, masked_canvases, outputs, outputs_by_layer
from pathlib import Path
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
folder = Path(sys.argv[1])
canvases = masked_canvases([Text("", (5, 6), tuple(range(7, 30)))], 60)
outputs(build(Path(sys.argv[2]))[0], canvases)  # what MLX itself takes
before = peak()
if sys.argv[3] == "whole":
    made = [outputs(build(folder)[0], canvases) for _ in range(2)]
else:
    made = [outputs_by_layer(lambda: build(folder)[0], canvases) for _ in range(2)]
print(float(sum(rows.sum() for rows in made[0].rows)), peak() - before)
"""


def synthetic(folder, **shape):
    """A folder with random weights; enough of one for `build`."""
    config = {"model_type": "Dream", "vocab_size": 64, "mask_token_id": 60, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= shape
    folder.mkdir()
    model = DiffusionModel(ModelConfig.from_dict(config))
    model.save_weights(str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_layer_by_layer_a_model_is_never_in_memory_whole(tmp_path):
    large = synthetic(tmp_path / "large", hidden_size=512, intermediate_size=2048, num_hidden_layers=24)
    small = synthetic(tmp_path / "small", hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    size = (large / "model.safetensors").stat().st_size
    found = {}
    for way in ("whole", "by layer"):
        done = subprocess.run([sys.executable, "-c", RESIDENT, large, small, way], capture_output=True, text=True, check=True)
        found[way] = [float(word) for word in done.stdout.split()]
    assert size > 300e6
    assert found["whole"][0] == found["by layer"][0]
    assert found["whole"][1] > 0.9 * size
    assert found["by layer"][1] < 0.2 * size


# The texts


def written(tmp_path, *rows):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_every_kind_of_row_is_read(tmp_path, pocket):
    _, tokenizer = pocket
    stub = "def f(x):\n    '''Double x.'''\n"
    rows = [
        {"prompt": "Say hi.", "completion": "hi"},
        {"messages": [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "hi"}]},
        {"text": "hi there"},
        {"task_id": "a", "prompt": "Say f.", "entry_point": "f", "canonical_solution": "def f():\n  pass\n", "test": "pass"},
        {"task_id": "b", "prompt": stub, "entry_point": "f", "canonical_solution": "    return 2 * x\n", "test": "pass"},
        {"task_id": 1, "text": "Double x.", "code": "def f(x): return 2 * x", "test_list": ["assert f(1) == 2"]},
    ]
    samples = read_samples(written(tmp_path, *rows))
    assert [one.answer for one in samples] == [
        *("hi", "hi", "hi there", "def f():\n  pass\n"),
        f"```python\n{stub}    return 2 * x\n```",
        "def f(x): return 2 * x",
    ]
    asked, chat, plain, *_ = encode_samples(samples, tokenizer, 2048)
    assert list(asked.prompt) == tokenizer.encode_chat("Say hi.")
    assert (asked.prompt, asked.answer) == (chat.prompt, chat.answer)
    im_end, endoftext = tokenizer.encode("<|im_end|>") + tokenizer.encode("<|endoftext|>")
    assert list(asked.answer) == [*tokenizer.encode("hi"), im_end]
    assert [*plain.prompt, *plain.answer] == [*tokenizer.encode("hi there"), endoftext]
    assert len(plain.prompt) == 1
    assert len(read_samples(tmp_path / "texts.jsonl", 2)) == 2


def test_special_tokens_in_an_answer_are_text(tmp_path, pocket):
    _, tokenizer = pocket
    (text,) = encode_samples(read_samples(written(tmp_path, {"prompt": "x", "completion": "a <|mask|> b"})), tokenizer, 2048)
    assert tokenizer.mask_id not in text.answer


def test_without_a_chat_template_a_prompt_is_taken_as_it_is(tmp_path, pocket, monkeypatch):
    _, tokenizer = pocket
    monkeypatch.setattr(tokenizer, "chat_template", None)
    (text,) = encode_samples(read_samples(written(tmp_path, {"prompt": "Say", "completion": " hi"})), tokenizer, 2048)
    assert list(text.prompt) == tokenizer.encode("Say")
    assert text.answer[-1] == tokenizer.encode("<|endoftext|>")[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "not an object"),
        ({"answer": "x"}, "prompt and completion, or messages, or text"),
        ({"text": "  "}, "text is empty"),
        ({"text": 3}, "text is a JSON int"),
        ({"completion": "x"}, "prompt is missing"),
        ({"prompt": "x", "completion": ""}, "completion is empty"),
        ({"messages": "x"}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "two or more"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]}, "must be the assistant's"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}, "messages: content is missing"),
        ({"task_id": 1, "text": "x", "test_list": ["assert f()"]}, "no solution"),
        ({"task_id": 1, "prompt": "x", "canonical_solution": "x"}, "not a task of a known format"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_used_names_file_and_line(tmp_path, row, said):
    path = written(tmp_path, {"text": "fine text"}, row)
    with pytest.raises(TaskError) as caught:
        read_samples(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value)


def test_a_text_that_does_not_fit_names_file_and_line(tmp_path, pocket):
    _, tokenizer = pocket
    path = written(tmp_path, {"prompt": "x", "completion": "y " * 50})
    with pytest.raises(TaskError, match=rf"{path}:1: is \d+ tokens long, and the model's context 40"):
        encode_samples(read_samples(path), tokenizer, 40)
    with pytest.raises(TaskError, match=r":1: .*half of a pair"):
        encode_samples(read_samples(written(tmp_path, '{"text": "a \\ud800"}')), tokenizer, 40)
    roles = [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]
    tokenizer_that_refuses = load("pocket", lazy=True)[1]
    tokenizer_that_refuses.chat_template = "{{ raise_exception('no robots') }}"
    with pytest.raises(CheckpointError, match=r":1: .*no robots"):
        encode_samples(read_samples(written(tmp_path, {"messages": roles})), tokenizer_that_refuses, 40)


def test_a_file_of_nothing_is_named(tmp_path):
    with pytest.raises(TaskError, match="holds no text"):
        read_samples(written(tmp_path, "", ""))
    with pytest.raises(TaskError, match="No such file"):
        read_samples(tmp_path / "none.jsonl")


def test_the_bundled_texts_are_the_unseen_tasks():
    tasks = map(json.loads, (DATA.parents[1] / "bench/tasks/functions.jsonl").read_text().splitlines())
    unseen = [(task["prompt"], task["canonical_solution"]) for task in tasks if task["split"] == "unseen"]
    assert [(one.messages[0]["content"], one.answer) for one in read_samples(HELD_OUT)] == unseen
