"""Widths chosen by measuring: the allocation against every allocation there is, the measures against a plain way."""

import itertools
import json
import random
import re
from collections import namedtuple
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from mlx_diffucoder import DiffusionModel, ModelConfig, load
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.convert import ConvertConfig, Width, allocate, calibrate, convert, make_plan, sensitivity
from mlx_diffucoder.convert.allocate import Choice
from mlx_diffucoder.convert.calibrate import Calibrator
from mlx_diffucoder.convert.sensitivity import Probe, mean_kl, rounded
from mlx_diffucoder.data import HELD_OUT, encode_samples, read_samples
from mlx_diffucoder.divergence.forwards import outputs
from mlx_diffucoder.divergence.kl import Divergence, readings
from mlx_diffucoder.divergence.masking import masked_canvases
from mlx_diffucoder.errors import CheckpointError, ConfigError, ConvertError, TaskError
from mlx_diffucoder.evaluation.compare import Checkpoint, compare
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.tokenizer import Tokenizer

from ..conftest import DATA

ROOT = DATA.parents[1]


ROWS = [{"text": "return n"}, {"prompt": "add 7", "completion": "x + 7\n"}]  # the shorter first, as they are measured


@pytest.fixture
def texts_file(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module", params=[pytest.param("dream-a", marks=pytest.mark.slow), "dream-b"])
def checkpoint(request):
    """To measure `dream-a`, whose head has weights of its own, takes longest; a test below measures its layers alone."""
    return DATA / request.param


@pytest.fixture(scope="module")
def calibrated(checkpoint, tmp_path_factory):
    """A checkpoint that has been measured; one choice has been made."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    told = []
    calibrator = Calibrator(
        checkpoint, Tokenizer.load(checkpoint), texts_of(path, checkpoint), tell=lambda *said: told.append(said)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "TRIES", 3)
        calibrator.choose(6)
    return calibrator, told


def texts_of(path, folder):
    return encode_samples(read_samples(path), Tokenizer.load(folder), 512)


# The allocation


def layers_of_chance(rng, count, step=1):
    return [
        [
            Choice(rng.randrange(1, 40) * step, rng.choice([0.0, rng.random(), rng.random() * 9]))
            for _ in range(rng.randrange(1, 6))
        ]
        for _ in range(count)
    ]


@pytest.mark.parametrize("step", [1, 7])
def test_the_allocation_is_the_best_of_all_there_are(step):
    rng = random.Random(step)
    for _ in range(200):
        layers = layers_of_chance(rng, 3, step)
        budget = rng.randrange(3, 110) * step
        fitting = [every for every in itertools.product(*layers) if sum(choice.size for choice in every) <= budget]
        if not fitting:
            with pytest.raises(ValueError, match="more than the budget"):
                allocate.allocate(layers, budget)
            continue
        numbers = allocate.allocate(layers, budget)
        chosen = [choices[number] for choices, number in zip(layers, numbers, strict=True)]
        assert sum(choice.size for choice in chosen) <= budget
        best = min(sum(choice.cost for choice in every) for every in fitting)
        assert sum(choice.cost for choice in chosen) == pytest.approx(best, abs=1e-12)


def test_a_budget_of_exactly_the_smallest_is_met_and_one_byte_less_is_not():
    layers = [[Choice(10, 1.0), Choice(20, 0.0)], [Choice(7, 1.0), Choice(8, 0.5)]]
    assert allocate.allocate(layers, 17) == [0, 0]
    assert allocate.allocate(layers, 18) == [0, 1]
    with pytest.raises(ValueError, match="take 17 bytes, more than the budget of 16"):
        allocate.allocate(layers, 16)


def test_the_budget_holds_where_sizes_are_too_many_to_be_told_apart(monkeypatch):
    monkeypatch.setattr(allocate, "MOST_STATES", 50)
    rng = random.Random(0)
    for _ in range(50):
        layers = [[Choice(rng.randrange(10_000), rng.random()) for _ in range(4)] for _ in range(5)]
        least = sum(min(choice.size for choice in choices) for choices in layers)
        budget = least + rng.randrange(20_000)
        numbers = allocate.allocate(layers, budget)
        assert sum(choices[number].size for choices, number in zip(layers, numbers, strict=True)) <= budget


def test_sizes_with_a_common_divisor_are_told_apart_whatever_their_number(monkeypatch):
    monkeypatch.setattr(allocate, "MOST_STATES", 50)
    assert allocate.allocate([[Choice(0, 1.0), Choice(1000, 0.0)]] * 30, 30_000) == [1] * 30


def is_swap(steps):
    """Whether changes of size are one that is larger and at most one other that is not."""
    return len(steps) in (1, 2) and sum(step > 0 for step in steps) == 1


@pytest.mark.parametrize("seed", range(30))
def test_swaps_are_all_that_fit_the_cheapest_first(seed):
    layers, budget = layers_of_chance(random.Random(seed), 3), 90
    chosen = allocate.allocate(layers, budget)

    def total(numbers, of):
        return sum(getattr(choices[number], of) for choices, number in zip(layers, numbers, strict=True))

    def steps(numbers):
        return [choices[a].size - choices[b].size for choices, a, b in zip(layers, numbers, chosen, strict=True) if a != b]

    every = [list(numbers) for numbers in itertools.product(*(range(len(choices)) for choices in layers))]
    every = [numbers for numbers in every if is_swap(steps(numbers)) and total(numbers, "size") <= budget]
    found = allocate.swaps(layers, chosen, budget, 1000)
    assert sorted(found) == sorted(every)
    costs = [total(numbers, "cost") for numbers in found]
    assert costs == pytest.approx(sorted(costs))
    assert allocate.swaps(layers, chosen, budget, 2) == found[:2]


# The measuring


@pytest.mark.parametrize("held", [1, pytest.param(2**30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("dream-a", marks=pytest.mark.slow), "dream-b"])
def test_a_layer_measured_alone_is_the_model_with_that_layer_rounded(name, texts_file, monkeypatch, held):
    checkpoint = DATA / name
    monkeypatch.setattr(sensitivity, "MOST_HELD", held)
    tokenizer = Tokenizer.load(checkpoint)
    canvases = masked_canvases(texts_of(texts_file, checkpoint), tokenizer.mask_id)
    model, _ = build(checkpoint)
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size)
    names = [name for name, module in model.named_modules() if hasattr(module, "to_quantized")]
    options = {name: [Width(2, 32), Width(4, 32)] for name in names}
    done = []
    probe = Probe(lambda: build(checkpoint)[0], canvases, forbidden, done.append)
    found = {(name, width): kl for name, width, kl in probe.alone(options)}
    assert sum(done) == probe.work_alone(options) + probe.work_together  # that of the reference
    assert {*found} == {(name, width) for name in names for width in options[name]}
    reference = outputs(model, canvases)
    for name, width in found:
        other, _ = build(checkpoint)
        module = dict(other.named_modules())[name]
        module.weight = rounded(module.weight, width)
        expected = mean_kl(readings(reference, outputs(other, canvases), canvases, forbidden))
        assert found[name, width] == pytest.approx(expected, rel=1e-3, abs=1e-7), name
        assert expected > 1e-7


def test_all_together_is_the_converted_folder(checkpoint, calibrated, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "TRIES", 0)
    chosen = calibrated[0].choose(6)
    out = convert(checkpoint, tmp_path / "out", ConvertConfig(quantize=True, widths=chosen.widths))
    canvases = masked_canvases(texts_of(texts_file, checkpoint), Tokenizer.load(checkpoint).mask_id)
    (found,) = compare(Checkpoint.of("a", checkpoint), [Checkpoint.of("b", out)], canvases)
    assert chosen.canvases == found.overall.canvases
    assert chosen.kl == pytest.approx(found.overall.kl, rel=1e-2)
    assert chosen.kl > 0


def test_what_is_done_is_told_up_to_the_end(calibrated):
    _, told = calibrated
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


def test_swaps_stay_where_the_measured_kl_falls(calibrated, monkeypatch):
    monkeypatch.setattr(calibrate, "TRIES", 12)
    searched = calibrated[0].choose(4.5)
    monkeypatch.setattr(calibrate, "TRIES", 0)
    began = calibrated[0].choose(4.5)
    assert searched.kl < began.kl
    assert searched.sum_of_kls >= began.sum_of_kls * (1 - 1e-9)


def test_a_search_with_fewer_swaps_than_tries_ends(monkeypatch):
    done = []
    probe = SimpleNamespace(together=lambda widths: [], work_together=1)
    subject = SimpleNamespace(_probe=probe, _advance=done.append)
    monkeypatch.setattr(calibrate, "Divergence", SimpleNamespace(of=lambda readings: "measured"))
    monkeypatch.setattr(calibrate, "mean_kl", lambda readings: 0.0)
    subject._widths = lambda numbers: {}
    assert Calibrator._search(subject, [[Choice(1, 1.0)]], 1) == ([0], "measured")
    assert len(done) == calibrate.TRIES


def test_every_number_of_bits_that_mlx_has_is_tried(calibrated):
    for layer in calibrated[0].layers:
        assert {width.bits for width in layer.sizes if width} == {2, 3, 4, 5, 6, 8}


def test_a_group_size_that_was_not_measured_costs_more_where_its_error_is_larger(calibrated):
    layer = calibrated[0].layers[-1]
    weight = mx.random.normal((8, 128), key=mx.random.key(0))
    sizes = {Width(4, 64): 0, Width(4, 32): 0, Width(4, 128): 0}
    costs = calibrate.Layer(layer.name, sizes).costs(weight, {Width(4, 64): 1.0})
    assert costs[Width(4, 32)] < costs[Width(4, 64)] == 1.0 < costs[Width(4, 128)] < 3


# The choice


@pytest.mark.parametrize("target", [4.2, 4.5, 5.25, 8.7, 13])
def test_the_folder_is_never_larger_than_asked_for_and_hardly_smaller(checkpoint, calibrated, tmp_path, target, monkeypatch):
    monkeypatch.setattr(calibrate, "TRIES", 2)
    widths = calibrated[0].choose(target).widths
    out = convert(checkpoint, tmp_path / "out", ConvertConfig(quantize=True, widths=widths))
    assert 0.98 * target < Checkpoint.of("out", out).bits_per_weight <= target
    assert make_plan(out).widths == widths


def test_a_conversion_chooses_as_its_plan_says_and_mlx_lm_reads_it(checkpoint, calibrated, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "TRIES", 2)
    config = ConvertConfig(quantize=True, target_bpw=5, calibrate=texts_file)
    out = convert(checkpoint, tmp_path / "out", config)
    assert make_plan(out).widths == calibrated[0].choose(5).widths
    theirs, _ = load_model(model_path=out, get_model_classes=lambda config: (DiffusionModel, ModelConfig))
    ours, _ = load(out)
    tokens = mx.array([[5, 6, 7, 8]])
    assert mx.array_equal(theirs(tokens), ours(tokens))


@pytest.mark.slow
def test_more_bits_go_where_they_do_more(pocket_texts):
    """On the trained checkpoint: half the KL of the uniform width of the same size, on texts it was not calibrated on."""
    folder, calibrated, held_out = pocket_texts
    uniform = make_plan(folder, ConvertConfig(quantize=True, q_bits=3))
    chosen = Calibrator(folder, Tokenizer.load(folder), calibrated).choose(uniform.bits_per_weight)
    tokenizer = Tokenizer.load(folder)
    canvases = masked_canvases(held_out, tokenizer.mask_id)
    model, _ = build(folder)
    probe = Probe(lambda: build(folder)[0], canvases, forbidden_ids(tokenizer, model.config.vocab_size), lambda count: None)
    ours, theirs = (Divergence.of(probe.together(widths)) for widths in (chosen.widths, uniform.widths))
    assert ours.kl < theirs.kl / 2
    assert ours.order > theirs.order
    assert ours.top1 >= theirs.top1


@pytest.fixture
def pocket_texts(tmp_path):
    """The first trained checkpoint, a few tasks it has seen, and a few of the texts it is judged by."""
    folder = DATA / "pocket-1"
    rows = [line for line in (ROOT / "bench/tasks/functions.jsonl").read_text().splitlines() if '"seen"' in line]
    (tmp_path / "seen.jsonl").write_text("\n".join(rows[:3]))
    return folder, texts_of(tmp_path / "seen.jsonl", folder), texts_of(HELD_OUT, folder)[:8]


@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_that_an_error_names_can_be_asked_for(end, calibrated):
    with pytest.raises(ConfigError) as caught:
        calibrated[0].check(1)
    low, high = (float(number) for number in re.findall(r"\d+\.\d{3}", str(caught.value)))
    calibrated[0].check(high - 0.001 if end else low)
    with pytest.raises(ConfigError):
        calibrated[0].check(high if end else low - 0.002)


# What cannot be


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"target_bpw": 4.5}, "target_bpw", "needs calibrate"),
        ({"calibrate": "texts.jsonl"}, "calibrate", "needs target_bpw"),
        ({"target_bpw": 0.0, "calibrate": "t"}, "target_bpw", "above 0"),
        ({"target_bpw": float("nan"), "calibrate": "t"}, "target_bpw", "above 0"),
        ({"target_bpw": float("inf"), "calibrate": "t"}, "target_bpw", "above 0"),
        ({"target_bpw": 4.5, "calibrate": "t", "quantize": False}, "target_bpw", "needs quantize"),
        ({"target_bpw": 4.5, "calibrate": "t", "dequantize": True}, "dequantize", "cannot be combined"),
        ({"target_bpw": 4.5, "calibrate": "t", "q_bits": 4}, "q_bits", "target_bpw"),
        ({"target_bpw": 4.5, "calibrate": "t", "q_group_size": 64}, "q_group_size", "target_bpw"),
        ({"target_bpw": 4.5, "calibrate": "t", "q_mode": "mxfp4"}, "q_mode", "target_bpw"),
        ({"target_bpw": 4.5, "calibrate": "t", "quant_predicate": "mixed_3_6"}, "quant_predicate", "target_bpw"),
        ({"target_bpw": 4.5, "calibrate": "t", "widths": {}}, "widths", "target_bpw"),
    ],
)
def test_what_contradicts_itself_is_named(options, field, said):
    with pytest.raises(ConfigError, match=f"^{field}.*{said}") as caught:
        ConvertConfig(**{"quantize": True, **options})
    assert caught.value.field == field


@pytest.mark.parametrize("target", [1.5, 2.1, 32, 33, 1e9])
def test_a_size_that_cannot_be_is_named_with_those_that_can_before_anything_is_measured(target, texts_file, monkeypatch):
    monkeypatch.setattr(Probe, "alone", None)
    config = ConvertConfig(quantize=True, target_bpw=target, calibrate=texts_file)
    with pytest.raises(ConfigError, match=r"^target_bpw .* cannot be reached: .* from 2\.\d+ .* to 32\.000") as caught:
        make_plan(DATA / "dream-a", config)
    assert caught.value.field == "target_bpw"


def test_too_little_disk_is_known_before_anything_is_measured(texts_file, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("mlx_diffucoder.files.shutil.disk_usage", lambda path: usage(10, 0, 10_000))
    monkeypatch.setattr(Probe, "alone", None)
    with pytest.raises(ConvertError, match="not enough disk"):
        convert(DATA / "dream-a", tmp_path / "out", ConvertConfig(quantize=True, target_bpw=4.5, calibrate=texts_file))
    assert not (tmp_path / "out").exists()


def test_a_quantized_source_is_refused_before_anything_is_measured(texts_file, tmp_path, monkeypatch):
    out = convert(DATA / "dream-a", tmp_path / "out", ConvertConfig(quantize=True))
    monkeypatch.setattr(Probe, "alone", None)
    with pytest.raises(ConvertError, match="is quantized already"):
        make_plan(out, ConvertConfig(quantize=True, target_bpw=4.5, calibrate=texts_file))


def test_a_damaged_source_is_named(broken, texts_file):
    weights = mx.load(str(broken / "model-00001-of-00002.safetensors"))
    name = next(name for name in weights if "down_proj" in name)
    weights[name][0, 0] = float("nan")
    mx.save_safetensors(str(broken / "model-00001-of-00002.safetensors"), weights)
    with pytest.raises(CheckpointError, match="dream-a: the model's output is not a number"):
        make_plan(broken, ConvertConfig(quantize=True, target_bpw=4.5, calibrate=texts_file))


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "not valid JSON"), ('{"a": 1}', "not a known format"), ('{"text": "%s"}' % ("x " * 9000), "tokens long")],
)
def test_a_bad_text_is_named_by_its_line(line, said, texts_file):
    texts_file.write_text(texts_file.read_text() + line)
    with pytest.raises(TaskError, match=rf"texts\.jsonl:3: .*{said}"):
        make_plan(DATA / "dream-a", ConvertConfig(quantize=True, target_bpw=4.5, calibrate=texts_file))
