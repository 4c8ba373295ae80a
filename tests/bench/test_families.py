"""Measuring and predicting models of other families: their shapes, baselines, rates, and what there is nothing to tune."""

from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_diffucoder import GenerationConfig, load
from mlx_diffucoder.bench import subjects
from mlx_diffucoder.bench.baselines import same_weights
from mlx_diffucoder.bench.ceilings import ceilings_named
from mlx_diffucoder.bench.decoders import denoised, reference_of
from mlx_diffucoder.bench.roofline import predict_shape
from mlx_diffucoder.bench.run import Plan, rates_of
from mlx_diffucoder.bench.shapes import SHAPES
from mlx_diffucoder.bench.subjects import Subject, random_subject
from mlx_diffucoder.bench.tuning import tune
from mlx_diffucoder.catalogue import CATALOGUE
from mlx_diffucoder.errors import BenchError

from ..conftest import DATA

M4 = ceilings_named("M4 Max")


def shrink(monkeypatch, name):
    """Make a shape small."""
    small = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    config = replace(SHAPES[name].config, num_attention_heads=4, num_key_value_heads=2, **small)
    monkeypatch.setitem(subjects.SHAPES, name, replace(SHAPES[name], config=config))


@pytest.fixture(scope="module")
def diffcoder():
    return Subject("diffcoder", *load(DATA / "stable-diffcoder-a"), random=False)


def test_every_shape_has_its_family_and_its_published_number_of_weights():
    billions = {name: round(one.config.parameters / 1e9, 2) for name, one in SHAPES.items()}
    published = {"7b": 7.62, "stable-diffcoder-8b": 8.25, "sdar-8b": 8.19, "llada-8b": 8.02, "open-dcoder-0.5b": 0.49}
    assert billions == published | {"coda-1.7b": 2.03}  # its head is its own
    for one in CATALOGUE:
        assert (one.config.block_length, one.config.qk_norm) == (one.family.block_length, one.family.qk_norm)


def test_a_block_model_is_predicted_at_the_rows_of_its_forwards():
    said = predict_shape(M4, 4, name="stable-diffcoder-8b")
    times = {row["rows"]: row["seconds"] for row in said["forwards"]}
    assert {1, 4, 8} <= times.keys()
    forwards = 4 / said["break_even_tokens_per_forward"]
    assert times[8] + (forwards - 1) * times[4] == pytest.approx(4 * times[1])
    assert "break_even_tokens_per_forward" not in predict_shape(M4, 4)
    with pytest.raises(BenchError, match=r"^--shape must be one of 7b, .*, not '8b'"):
        predict_shape(M4, 4, name="8b")


@pytest.mark.parametrize("name", ["dream-a", "coda-a", "stable-diffcoder-a"])
def test_the_baseline_around_the_same_weights_is_the_autoregressive_model_of_that_kind(name):
    subject = Subject(name, *load(DATA / name), random=False)
    baseline = same_weights(subject)
    ids = mx.array([[9, 30, 200, 41, 77]])
    expected = subject.model(ids, mask=mx.tril(mx.ones((5, 5), dtype=mx.bool_)))
    assert mx.allclose(baseline.model(ids), expected, atol=1e-4)


def test_random_weights_of_a_block_model_commit_at_most_a_block(monkeypatch):
    shrink(monkeypatch, "stable-diffcoder-8b")
    subject = random_subject("stable-diffcoder-8b", 16, "float32")
    assert subject.model.family is SHAPES["stable-diffcoder-8b"].family
    config = GenerationConfig(max_tokens=16).for_model(subject.model)
    assert rates_of(Plan([], config, 8, 1, 0, None, None, False), subject) == [1, 2, 4]
    with pytest.raises(BenchError, match="--tokens-per-forward must be at most 4, the positions in a block, not 8"):
        rates_of(Plan([], config, 8, 1, 0, 8, None, False), subject)
    run = denoised(subject, list(range(8)), config, 2.0)
    assert [positions for _, positions in run.forwards[1:]] == [4, 8, 4, 8, 4, 8, 4]


@pytest.mark.parametrize("name", ["llada-8b", "open-dcoder-0.5b", "coda-1.7b"])
def test_random_weights_of_other_families_decode_as_their_family_does(monkeypatch, name):
    shrink(monkeypatch, name)
    subject = random_subject(name, 16, "float32")
    config = GenerationConfig(max_tokens=8).for_model(subject.model)
    assert subject.model.family is SHAPES[name].family
    assert denoised(subject, [5, 6, 7], config, 2.0).nfe == 4
    assert denoised(subject, [5, 6, 7], reference_of(config), None).nfe <= 8
    if not subject.model.shift:
        with pytest.raises(BenchError, match=r"^LLaDA models cannot decode on the window tree.*there is nothing to tune$"):
            tune(subject, ["add"], GenerationConfig(), 1, 0.0, None)


def test_the_reference_of_a_block_model_is_its_own(diffcoder):
    config = reference_of(GenerationConfig(max_tokens=8).for_model(diffcoder.model))
    assert denoised(diffcoder, [9, 8, 7], config, None).nfe == 8


@pytest.mark.parametrize(
    ("name", "reason"), [("stable-diffcoder-a", "decode in blocks of fixed length"), ("dreamon-a", "forward the whole canvas")]
)
def test_there_is_nothing_to_tune_for_a_family_with_one_window(name, reason):
    with pytest.raises(BenchError, match=f"models {reason}.*; there is nothing to tune$"):
        tune(Subject(name, *load(DATA / name), random=False), ["add"], GenerationConfig(), 1, 0.0, None)
