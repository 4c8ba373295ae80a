"""What `diffucode bench` measures is what it says."""

import math
from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_diffucoder import GenerationConfig, ModelConfig, stream_generate
from mlx_diffucoder.bench import networks, speed
from mlx_diffucoder.bench.ceilings import Ceilings
from mlx_diffucoder.bench.networks import Measured, check_fits, noise
from mlx_diffucoder.bench.shapes import parameters
from mlx_diffucoder.bench.speed import forward_curve, generation_of, split_of
from mlx_diffucoder.bench.timing import Timing, timings
from mlx_diffucoder.errors import BenchError

PROMPT = [754, 64, 82, 374, 83, 198]
# 1000 operations/s and endless bandwidth: seconds at the ceilings are the work alone.
ABACUS = Ceilings(chip="abacus", bandwidth=math.inf, flops=1000, source="made up")
TINY = ModelConfig(
    vocab_size=1000,
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    mask_token_id=999,
)


@pytest.fixture(scope="module")
def measured(dream_b):
    return Measured("dream-b", *dream_b, random=False)


def test_a_timing_is_the_median_with_its_spread_and_the_warm_up_does_not_count():
    assert Timing.of([3.0, 1.0, 10.0]) == Timing(3.0, 1.0, 10.0, 3)
    calls = []
    assert timings(lambda: calls.append(1), 4).trials == 4
    assert len(calls) == 5


def test_the_clock_gives_each_second_of_a_step_to_one_part(monkeypatch):
    now = iter([0.0, 6.0])  # the step begins and ends
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(now))
    clock = speed.Clock()
    clock.now["forward"] = 2.0
    clock.decides_since, clock.now["lm_head"] = 3.0, 1.0
    clock.decided()
    assert clock.steps == [{"forward": 2.0, "lm_head": 1.0, "sampling": 2.0, "host": 1.0}]


@pytest.mark.parametrize("preset", ["exact", "balanced", "fast"])
def test_probing_a_generation_changes_none_of_its_tokens(measured, preset, monkeypatch):
    config = GenerationConfig.preset(preset, max_tokens=12, seed=0)
    *_, last = stream_generate(measured.model, measured.tokenizer, PROMPT, config)
    seen = []
    plain = speed.denoise

    def spy(*given, **options):
        for step in plain(*given, **options):
            seen.append(step[0])
            yield step

    monkeypatch.setattr(speed, "denoise", spy)
    steps = speed._steps(measured, PROMPT, config, probed=True)
    assert seen[-1].tokens.tolist() == last.tokens.tolist()
    assert len(steps) == len(seen)
    assert all(step[part] > 0 for step in steps for part in ("forward", "lm_head", "sampling", "host"))


@pytest.mark.slow
def test_the_parts_of_a_step_add_up_to_a_step_measured_without_them(pocket):
    config = GenerationConfig.preset("exact", max_tokens=32, steps=8, seed=0)
    measured = Measured("pocket", *pocket, random=False)
    # The best of three: on a busy machine a trial measures what it is busy with.
    off = [abs(split_of(measured, [PROMPT], config, 3, 0).sum_over_step - 1) for _ in range(3)]
    assert min(off) < 0.1


def test_a_generations_counts_are_those_of_generate_and_its_share_that_of_its_own_forwards(measured):
    config = GenerationConfig.preset("balanced", max_tokens=12, seed=0)
    one = generation_of(measured, PROMPT, config, ABACUS, trials=2, delay=0)
    *_, last = stream_generate(measured.model, measured.tokenizer, PROMPT, config)
    assert (one.stats.nfe, one.stats.positions) == (last.nfe, last.positions)
    assert one.ideal == pytest.approx(2 * parameters(measured.model.config) * last.positions / 1000)
    assert one.first.low <= one.time.high
    assert one.stats.peak_memory_bytes > 0


def test_a_curve_has_a_point_for_each_width(measured):
    found = dict(forward_curve(measured, [1, 3], trials=2, delay=0))
    assert list(found) == [1, 3]
    assert all(took.low <= took.seconds <= took.high for took in found.values())


@pytest.mark.parametrize(("bits", "stored"), [(4, 4.5), (8, 8.5), (16, 16)])
def test_noise_has_the_shape_and_the_bits_that_were_asked_for(monkeypatch, bits, stored):
    monkeypatch.setitem(networks.SHAPES, "tiny", TINY)
    made = noise("tiny", bits, "bfloat16", layers=2)
    assert made.random
    assert made.work.parameters == parameters(replace(TINY, num_hidden_layers=2))
    assert made.work.bits_per_weight == pytest.approx(stored, rel=0.02)  # norms and biases are not quantized
    logits = made.model(mx.array([PROMPT]))
    assert logits.shape == (1, 6, 1000)
    assert mx.isfinite(logits).all().item()
    again = noise("tiny", bits, "bfloat16", layers=2)
    assert mx.array_equal(logits, again.model(mx.array([PROMPT])))
    one = generation_of(made, PROMPT, GenerationConfig(max_tokens=4, seed=0), ABACUS, trials=1, delay=0)
    assert one.stats.nfe >= 1


def test_a_model_that_does_not_fit_is_refused_with_the_sizes_that_do():
    with pytest.raises(BenchError, match=r"16\.8 GB to run of 8\.0 GB of memory; of the 7B, 6, 4, 3, 2 bits would"):
        check_fits("7b", 15.23e9, memory=8_000_000_000)
    with pytest.raises(BenchError, match="no 7B would"):
        check_fits("7b", 15.23e9, memory=10**9)
    check_fits("7b", 4.28e9, memory=8_000_000_000)


def test_a_shape_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(networks, "memory_size", lambda: 4_000_000_000)
    monkeypatch.setattr(networks, "Dream", None)
    with pytest.raises(BenchError, match="3, 2 bits would"):
        noise("7b", 4, "bfloat16")
