"""Decoders side by side: what is counted, and that mlx-lm runs the same weights."""

import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, convert, load, stream_generate
from mlx_diffucoder.bench import baselines, decoders, subjects
from mlx_diffucoder.bench.baselines import autoregressive, coder, coder_for, generated, same_weights
from mlx_diffucoder.bench.ceilings import Ceilings
from mlx_diffucoder.bench.decoders import (
    AUTOREGRESSIVE,
    Decoder,
    Run,
    SideBySide,
    break_even_rate,
    denoised,
    denoising,
    reference_of,
)
from mlx_diffucoder.bench.roofline import Work
from mlx_diffucoder.bench.subjects import Subject, random_subject
from mlx_diffucoder.bench.tables import _break_even
from mlx_diffucoder.bench.timing import take_turns
from mlx_diffucoder.catalogue import CATALOGUE
from mlx_diffucoder.errors import BenchError

from ..conftest import DATA

PROMPT = [754, 64, 82, 374, 83, 198]
ABACUS = Ceilings(chip="abacus", bandwidth=math.inf, flops=1000, source="made up")


@pytest.fixture(scope="module")
def subject(dream_b):
    return Subject("dream-b", *dream_b, random=False)


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    """Of the shape of `dream-b`, with room for the tokens of `pocket`."""
    folder = tmp_path_factory.mktemp("shape")
    content = json.loads((DATA / "dream-b" / "config.json").read_text()) | {"vocab_size": 1024}
    (folder / "config.json").write_text(json.dumps(content))
    return random_subject(str(folder), 16, "float32")


def test_a_run_counts_what_generate_counts(subject):
    config = GenerationConfig.preset("balanced", max_tokens=12, seed=0)
    run = denoised(subject, PROMPT, config, None)
    *_, last = stream_generate(subject.model, subject.tokenizer, PROMPT, config)
    assert (run.nfe, run.positions) == (last.nfe, last.positions)
    assert sum(count for count, _ in run.forwards) == run.nfe
    assert sum(count * each for count, each in run.forwards) == run.positions
    assert 0 < run.first <= run.seconds


def test_the_share_of_the_roofline_is_that_of_a_runs_own_forwards(subject):
    config = GenerationConfig.preset("exact", max_tokens=4, seed=0)
    sides = SideBySide([denoising(subject, [PROMPT], config, "exact", "diffusion")])
    take_turns([sides], 1, 0, nullcontext)
    said = sides.decoders[0].to_dict(None, ABACUS)
    (one,) = said["generations"]
    ideal = 2 * subject.model.config.parameters * one["positions"] / 1000
    assert one["roofline_share"] == pytest.approx(ideal / one["time"]["seconds"])
    assert said["tokens_per_forward"] == said["useful_tokens"] / said["nfe"]
    assert said["ratio"] is None


@pytest.mark.parametrize(("rate", "steps"), [(1, 12), (1.5, 8), (4, 3), (5, 3), (100, 1)])
def test_assumed_commits_keep_their_rate_from_left_to_right_to_the_last_token(random, rate, steps):
    config = GenerationConfig(max_tokens=12, seed=0, window="sliding:width=120,suffix=0")
    run = denoised(random, PROMPT, config, rate)
    assert (run.nfe, run.useful_tokens) == (steps, 12)
    firsts = [step.committed for step in decoders._steps(random, PROMPT, config, rate)]
    assert np.concatenate(firsts).tolist() == list(range(len(PROMPT), len(PROMPT) + 12))


def test_random_weights_never_end_an_answer(random, monkeypatch):
    tokenizer = random.tokenizer
    canvas = decoders.canvas_of(random, PROMPT, GenerationConfig(max_tokens=4))
    assert canvas.end_ids == frozenset()
    assert decoders.canvas_of(Subject("x", random.model, tokenizer, random=False), PROMPT, GenerationConfig()).end_ids
    reference = denoised(random, PROMPT, reference_of(GenerationConfig(max_tokens=4, seed=0)), None)
    assert (reference.nfe, reference.positions, reference.useful_tokens) == (4, 4 * 10, 4)


def test_the_reference_is_one_token_a_step_whatever_was_asked_for():
    asked = GenerationConfig(max_tokens=9, steps=3, alg="topk_margin", top_p=0.9, seed=4)
    assert reference_of(asked) == GenerationConfig(max_tokens=9, alg="topk_margin", top_p=0.9, seed=4, reference=True)
    assert reference_of(GenerationConfig.preset("balanced")).window == "whole"


def plain_tokens(model, ids, count):
    """One token after the other with the model itself, every forward from scratch and causal."""
    ids = list(ids)
    for _ in range(count):
        causal = mx.tril(mx.ones((len(ids), len(ids)), dtype=mx.bool_))[None, None]
        ids.append(int(mx.argmax(model(mx.array([ids]), mask=causal)[0, -1]).item()))
    return ids[-count:]


@pytest.mark.parametrize("name", ["dream-a", "dream-b"])
def test_mlx_lm_runs_the_subjects_own_weights_with_causal_attention(name):
    model, tokenizer = load(DATA / name)
    baseline = same_weights(Subject(name, model, tokenizer, random=False))
    assert list(generated(baseline.model, PROMPT, 5))[:5] == plain_tokens(model, PROMPT, 5)
    assert baseline.model.model.layers[0].mlp.up_proj is model.model.layers[0].mlp.up_proj  # nothing is held twice


def test_mlx_lm_runs_in_the_subjects_quantization(tmp_path):
    from mlx_diffucoder.convert import ConvertConfig

    folder = convert.convert(DATA / "dream-a", tmp_path / "out", ConvertConfig(quantize=True, q_bits=8, q_group_size=32))
    model, tokenizer = load(folder, dtype="float32")
    baseline = same_weights(Subject("q", model, tokenizer, random=False))
    assert baseline.model.model.layers[0].self_attn.q_proj.bits == 8
    assert list(generated(baseline.model, PROMPT, 4))[:4] == plain_tokens(model, PROMPT, 4)


def test_what_mlx_lm_forwards_is_counted(subject, monkeypatch):
    run = same_weights(subject).run(PROMPT, 7)
    assert (run.useful_tokens, run.nfe, run.positions) == (7, 8, 5 + 7)  # the prompt's last token is a step of its own
    assert 0 < run.first < run.seconds
    monkeypatch.setattr(baselines, "PREFILL_STEP", 2)
    assert same_weights(subject).run(PROMPT, 1).nfe == 4
    assert same_weights(subject).run([5], 2).nfe == 2


def speed(kind, rate, rounds):
    """A decoder that wrote 100 tokens in so many seconds."""
    work = Work(parameters=1, bits_per_weight=16)
    runs = [
        Run(seconds=s, first=s, nfe=50, positions=400, useful_tokens=100, forwards=[(50, 8)], peak_memory_bytes=1) for s in rounds
    ]
    rounds = [[run] for run in runs]
    return Decoder(name=kind, kind=kind, rate=rate, work=work, prompts=[3], run=None, warm_up=None, rounds=rounds)


def test_a_ratio_is_taken_round_by_round_where_both_ran():
    baseline, slow = speed(AUTOREGRESSIVE, None, [1, 2, 4]), speed("reference", None, [10, 10])
    assert slow.ratios(baseline) == pytest.approx([0.1, 0.2])
    said = slow.to_dict(baseline, ABACUS)
    assert said["ratio"] == pytest.approx({"median": 0.15, "low": 0.1, "high": 0.2})
    assert said["useful_tokens_per_second"] == pytest.approx({"median": 10, "low": 10, "high": 10})
    assert (said["tokens_per_forward"], said["positions_per_useful_token"]) == (2, 4)


def test_break_even_is_between_the_rates_around_it():
    baseline = speed(AUTOREGRESSIVE, None, [1])
    rates = [speed("diffusion", rate, [4 / rate]) for rate in (1, 2, 8)]  # as fast at 4
    assert break_even_rate(rates, baseline) == pytest.approx(4)
    assert break_even_rate(rates[:2], baseline) is None
    assert break_even_rate(rates[2:], baseline) is None


def test_break_even_with_mlx_lm_is_decided_by_the_medians():
    baseline = speed(AUTOREGRESSIVE, None, [1, 1, 1])
    assert "about 4.0 useful tokens" in _break_even([speed("diffusion", rate, [4 / rate]) for rate in (1, 2, 8)], baseline)
    slow = [speed("diffusion", rate, [0.5, 2, 3]) for rate in (1, 2)]  # one lucky round
    assert _break_even(slow, baseline) == "Slower than mlx-lm at 2 useful tokens per forward, and below."
    fast = [speed("diffusion", rate, [0.5, 0.4, 3]) for rate in (1, 2)]
    assert _break_even(fast, baseline) == "As fast as mlx-lm, or faster, at 1 useful tokens per forward."


def test_a_decoder_that_has_taken_long_enough_has_no_further_trial(monkeypatch):
    monkeypatch.setattr(decoders, "TIME_BUDGET", 5.0)
    calls = []

    def decoder(name, seconds):
        def run(number):
            calls.append(name)
            return speed(name, None, [seconds]).rounds[0][0]

        return Decoder(
            name=name,
            kind=name,
            rate=None,
            work=None,
            prompts=[3, 3],
            run=run,
            warm_up=lambda number: calls.append(f"warm {name}"),
        )

    sides = SideBySide([decoder("slow", 3.0), decoder("fast", 0.1)])
    take_turns([sides], 3, 0, nullcontext)
    assert calls[:4] == ["warm slow", "warm slow", "warm fast", "warm fast"]
    assert [len(one.rounds) for one in sides.decoders] == [1, 3]


def qwen2(folder, config, model):
    """A checkpoint as mlx-lm writes them, with a tokenizer of as many tokens."""
    from mlx.utils import tree_flatten

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(DATA / "pocket-1" / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return folder


def test_a_checkpoint_of_mlx_lms_own_answers_with_its_template_up_to_its_end(tmp_path, subject):
    raw = json.loads((DATA / "dream-b" / "config.json").read_text())
    model = subject.model
    folder = qwen2(tmp_path / "coder", {**raw, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, model)
    baseline = coder(str(folder), subject)
    assert baseline.ends
    ids = baseline.prompt("hi", PROMPT, GenerationConfig(system=None))
    assert ids
    assert all(isinstance(token, int) for token in ids)
    assert baseline.prompt("hi", PROMPT, GenerationConfig(raw=True)) != ids
    written = plain_tokens(model, PROMPT, 6)
    baseline.tokenizer.eos_token_ids = {written[3]}
    assert baseline.run(PROMPT, 6).useful_tokens == written.index(written[3]) + 1
    one = autoregressive(baseline, [PROMPT], [6])
    assert (one.kind, one.prompts, one.name) == (AUTOREGRESSIVE, [6], f"mlx-lm, {folder}")


def test_a_baseline_that_is_not_here_or_not_mlx_lms_is_one_error(tmp_path, subject, monkeypatch):
    monkeypatch.setattr(subjects, "cached", lambda name: None)
    for name in ("nobody/nothing", "nothing"):
        with pytest.raises(BenchError, match="not on this machine, and bench downloads nothing"):
            coder(name, subject)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BenchError, match="mlx-lm cannot load it"):
        coder(str(tmp_path), subject)


def test_a_coder_is_taken_for_a_7b_of_its_bits_that_is_cached_and_never_for_random_weights(subject, monkeypatch):
    asked = []
    monkeypatch.setattr(baselines, "cached", lambda name: asked.append(name) or DATA)
    assert coder_for(subject) is None
    assert asked == []
    monkeypatch.setitem(baselines.SHAPES, "7b", replace(CATALOGUE[0], config=subject.model.config))
    bits = int(subject.work.bits_per_weight)
    monkeypatch.setitem(baselines.CODERS, bits, "Qwen/its-coder")
    assert coder_for(subject) == "Qwen/its-coder"
    assert coder_for(Subject("random", subject.model, subject.tokenizer, random=True)) is None
