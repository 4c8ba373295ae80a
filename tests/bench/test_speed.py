"""What `diffucode bench run` measures is what it reports."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_diffucoder import GenerationConfig, ModelConfig, memory, stream_generate
from mlx_diffucoder.bench import speed, subjects
from mlx_diffucoder.bench.ceilings import Ceilings
from mlx_diffucoder.bench.shapes import dimensions
from mlx_diffucoder.bench.speed import ForwardCurve, Splitting, forward_rows
from mlx_diffucoder.bench.subjects import Subject, random_subject
from mlx_diffucoder.bench.timing import Timing, take_turns, timings
from mlx_diffucoder.catalogue import CATALOGUE
from mlx_diffucoder.errors import BenchError, CheckpointError
from mlx_diffucoder.files import read_json

from ..conftest import DATA

PROMPT = [754, 64, 82, 374, 83, 198]
# 1000 operations/s and endless bandwidth: seconds at the ceilings are the work alone.
ABACUS = Ceilings(chip="abacus", bandwidth=math.inf, flops=1000, source="made up")
TINY = ModelConfig(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    mask_token_id=1023,
)


@pytest.fixture(scope="module")
def subject(dream_b):
    return Subject("dream-b", *dream_b, random=False)


def test_a_timing_is_the_median_with_its_spread_and_the_warm_up_does_not_count():
    assert Timing.of([3.0, 1.0, 10.0]) == Timing(3.0, 1.0, 10.0, 3)
    calls = []
    assert timings(lambda: calls.append(1), 4).trials == 4
    assert len(calls) == 5


def test_the_clock_gives_each_second_of_a_step_to_one_part(monkeypatch):
    now = iter([0.0, 6.0, 6.5])  # the step begins and ends, and the next forward is queued
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(now))
    clock = speed.Clock()
    clock.now["forward"] = 2.0
    clock.decides_since, clock.now["lm_head"] = 3.0, 1.0
    clock.queued()  # the first forward: nothing has been decided yet
    clock.decided()
    clock.queued()
    assert clock.gaps == [0.5]
    assert clock.steps == [{"forward": 2.0, "lm_head": 1.0, "sampling": 2.0, "host": 1.0}]


@pytest.mark.parametrize("preset", ["exact", "balanced"])
def test_probing_a_generation_changes_none_of_its_tokens(subject, preset, monkeypatch):
    config = GenerationConfig.preset(preset, max_tokens=12, seed=0)
    *_, last = stream_generate(subject.model, subject.tokenizer, PROMPT, config)
    seen = []
    plain = speed.denoise

    def spy(*given, **options):
        for step in plain(*given, **options):
            seen.append(step[0])
            yield step

    monkeypatch.setattr(speed, "denoise", spy)
    clock = speed._timed(subject, PROMPT, config, None, probed=True)
    steps = clock.steps
    assert len(clock.gaps) == len(steps) - 1
    assert seen[-1].tokens.tolist() == last.tokens.tolist()
    assert len(steps) == len(seen)
    assert all(step[part] > 0 for step in steps for part in ("forward", "lm_head", "sampling", "host"))


def split_of(subject, config, trials):
    splitting = Splitting(subject, [PROMPT], config)
    take_turns([splitting], trials, 0, nullcontext)
    return splitting.to_dict()


def test_a_split_has_every_part_of_the_steps_after_the_first(subject):
    split = split_of(subject, GenerationConfig.preset("exact", max_tokens=6, steps=3, seed=0), 2)
    assert split["parts"].keys() == {"forward", "lm_head", "sampling", "host"}
    assert (split["steps"], split["prompt"], split["step"]["trials"]) == (2, len(PROMPT), 2)
    assert all(seconds > 0 for seconds in split["parts"].values())
    assert 0 < split["gap"]["seconds"] < split["step"]["seconds"]


@pytest.mark.slow
def test_the_parts_of_a_step_add_up_to_a_step_measured_without_them(pocket):
    config = GenerationConfig.preset("exact", max_tokens=32, steps=8, seed=0)
    subject = Subject("pocket", *pocket, random=False)
    # The best of three: on a busy machine a trial measures what it is busy with.
    assert min(abs(split_of(subject, config, 3)["sum_over_step"]["median"] - 1) for _ in range(3)) < 0.1


def test_a_curve_has_a_point_for_each_width_and_its_share_of_the_roofline(subject, monkeypatch):
    curve = ForwardCurve(subject, [1, 3])
    forwarded, backbone = [], type(subject.model.model)
    plain = backbone.__call__

    def forward(self, tokens, positions, mask, kv):
        out = plain(self, tokens, positions, mask, kv)
        forwarded.append((tokens.shape[1], *{keys.shape[2] for keys, _ in kv.layers}))
        return out

    monkeypatch.setattr(backbone, "__call__", forward)
    take_turns([curve], 2, 0, nullcontext)
    assert set(forwarded[1:]) == {(1, speed.CANVAS), (3, speed.CANVAS)}  # as generate forwards: with a cache
    assert list(curve.timings) == [1, 3]
    assert all(took.low <= took.seconds <= took.high and took.trials >= 2 for took in curve.timings.values())
    rows = forward_rows(curve, subject, ABACUS)
    at_best = 2 * subject.model.config.parameters * 3 / 1000  # its embeddings are tied: every weight is multiplied
    assert rows[1]["roofline_share"] == pytest.approx(at_best / rows[1]["time"]["seconds"])


def test_a_table_of_embeddings_is_no_work_of_a_forward(dream_a):
    one = Subject("dream-a", *dream_a, random=False)
    table = dream_a[0].model.embed_tokens.weight
    assert one.work.parameters - one.forwarded.parameters == table.size
    assert one.work.bytes - one.forwarded.bytes == pytest.approx(table.nbytes)


def test_sections_take_turns_after_a_warm_up_of_each():
    calls = []

    class Spy:
        def __init__(self, name):
            self.name = name

        def warm_up(self):
            calls.append(f"warm {self.name}")

        def trial(self, delay):
            calls.append(f"{self.name} {delay}")

    shown = []
    take_turns([Spy("a"), Spy("b")], 2, 3, lambda what: nullcontext(shown.append(what)))
    assert calls == ["warm a", "warm b", "a 3", "b 3", "a 3", "b 3"]
    assert shown[-1] == "trial 2 of 2: b"


@pytest.mark.parametrize(("bits", "stored"), [(4, 4.5), (8, 8.5), (16, 16)])
def test_random_weights_have_the_shape_and_the_bits_asked_for(monkeypatch, bits, stored):
    monkeypatch.setitem(subjects.SHAPES, "tiny", replace(CATALOGUE[0], config=TINY))
    made = random_subject("tiny", bits, "bfloat16", layers=2)
    assert made.random
    assert made.work.parameters == replace(TINY, num_hidden_layers=2).parameters
    assert made.work.bits_per_weight == pytest.approx(stored, rel=0.02)  # norms and biases are not quantized
    logits = made.model(mx.array([PROMPT]))
    assert logits.shape == (1, 6, 1024)
    assert mx.isfinite(logits).all().item()
    again = random_subject("tiny", bits, "bfloat16", layers=2)
    assert mx.array_equal(logits, again.model(mx.array([PROMPT])))


def test_a_shape_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(memory, "working_set", lambda: 4_000_000_000)
    monkeypatch.setattr(subjects, "DiffusionModel", None)
    with pytest.raises(CheckpointError, match=r"7b, 4 bits, random weights: .* at 3, 2 bits a weight it fits"):
        random_subject("7b", 4, "bfloat16")


def test_random_weights_can_have_the_shape_of_any_checkpoint_on_this_machine(monkeypatch, tmp_path):
    with pytest.raises(BenchError, match="its vocabulary of 768 is smaller than that of pocket"):
        random_subject(str(DATA / "dream-b"), 16, "float32")
    content = read_json(DATA / "dream-b" / "config.json") | {"vocab_size": 2000}
    (tmp_path / "config.json").write_text(json.dumps(content))
    made = random_subject(str(tmp_path), 16, "float32")
    assert dimensions(made.model.config) == dimensions(ModelConfig.from_dict(content))
    assert made.random
    monkeypatch.setattr(subjects, "cached", lambda name: None)
    for name in ("9b", "nobody/nothing", "./nowhere"):
        with pytest.raises(BenchError, match=r"--shape must be 7b, .*, pocket, a checkpoint folder"):
            random_subject(name, 4, "float32")
