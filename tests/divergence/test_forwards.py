"""Outputs of a network in whole and layer by layer, and how far a conversion is from its source."""

import json
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_diffucoder import DiffusionModel, ModelConfig, load
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.data import HELD_OUT, Text, encode_samples, read_samples
from mlx_diffucoder.divergence.forwards import outputs, outputs_by_layer
from mlx_diffucoder.divergence.kl import Divergence, readings
from mlx_diffucoder.divergence.masking import masked_canvases
from mlx_diffucoder.forbidden import forbidden_ids

from ..conftest import DATA


def ids(text, context=2048):
    def encoded(tokenizer):
        return encode_samples(read_samples(HELD_OUT, text), tokenizer, context)

    return encoded


@pytest.fixture(scope="module")
def canvases(first_pocket):
    return masked_canvases(ids(6)(first_pocket[1]), first_pocket[1].mask_id)


def test_outputs_are_of_the_rows_to_the_left_of_the_masks(loaded):
    model, tokenizer = loaded
    canvases = masked_canvases([Text((5, 6), (7, 8, 9, 10, 11)), Text((5,), (12, 13, 14))], tokenizer.mask_id)
    found = mx.concatenate(list(outputs(model, canvases).logits(4)))
    wanted = [model(mx.array(one.tokens)[None])[0, mx.array(one.positions - 1)] for one in canvases]
    assert mx.allclose(found, mx.concatenate(wanted), atol=1e-4)


@pytest.mark.parametrize("bits", [None, 4])
def test_layer_by_layer_gives_the_same_bits(checkpoint, tmp_path, bits):
    folder = checkpoint
    if bits:
        folder = convert(checkpoint, tmp_path / "out", ConvertConfig(quantize=True, q_bits=bits, q_group_size=32))
    model, tokenizer = load(folder)
    canvases = masked_canvases([Text((5, 6), tuple(range(7, 30))), Text((5,), (12, 13, 14))], tokenizer.mask_id)
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
    canvases = canvases[:4]
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
    canvases = masked_canvases([Text((5, 6), (7, 8, 9))], tokenizer.mask_id)
    reference = outputs(model, canvases)
    before = mx.concatenate(list(reference.logits(100)))
    mx.eval(before)
    nn.quantize(model, group_size=32, bits=2)
    assert mx.array_equal(mx.concatenate(list(reference.logits(100))), before)


RESIDENT = """
import sys, mlx.core as mx
from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.data import Text
from mlx_diffucoder.divergence.forwards import outputs, outputs_by_layer
from mlx_diffucoder.divergence.masking import masked_canvases
from pathlib import Path
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
folder = Path(sys.argv[1])
canvases = masked_canvases([Text((5, 6), tuple(range(7, 30)))], 60)
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
    config = {"model_type": "Dream", "vocab_size": 64, "mask_token_id": 60, "rope_theta": 1e4}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, **shape}
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
