"""Conversion: the identity in float32, `mx.quantize` bit for bit, and a folder that says what it is."""

import json
import os
import time
from contextlib import nullcontext

import mlx.core as mx
import pytest

from mlx_diffucoder import DiffusionModel, GenerationConfig, ModelConfig, Tokenizer, generate, load
from mlx_diffucoder.convert import ConvertConfig, convert, converter, make_plan
from mlx_diffucoder.errors import ConfigError, ConvertError

from ..conftest import DATA


def arrays(folder):
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= mx.load(str(file))
    return found


def test_without_quantization_every_array_is_the_source(checkpoint, tmp_path):
    out = convert(checkpoint, tmp_path / "out")
    source, result = arrays(checkpoint), arrays(out)
    assert source.keys() == result.keys()
    for name, value in source.items():
        assert value.dtype == result[name].dtype
        assert mx.array_equal(value, result[name]), name


QUANTIZATIONS = [("affine", bits, 64) for bits in (2, 3, 4, 5, 6, 8)] + [
    ("affine", 4, 32),
    ("mxfp4", 4, 32),
    ("mxfp8", 8, 32),
    ("nvfp4", 4, 16),
]


@pytest.mark.parametrize(("mode", "bits", "group_size"), QUANTIZATIONS)
def test_quantized_arrays_equal_mx_quantize_of_the_source_bit_for_bit(tmp_path, mode, bits, group_size):
    source = DATA / "dream-a"
    config = ConvertConfig(quantize=True, q_bits=bits, q_group_size=group_size, q_mode=mode)
    out = convert(source, tmp_path / "out", config)
    result = arrays(out)
    for name, value in arrays(source).items():
        layer = name.removesuffix(".weight")
        if value.ndim == 1:
            assert mx.array_equal(result[name], value)
            continue
        parts = mx.quantize(value, group_size=group_size, bits=bits, mode=mode)
        for suffix, part in zip((".weight", ".scales", ".biases"), parts, strict=False):
            assert mx.array_equal(result[layer + suffix], part), layer + suffix
    settings = json.loads((out / "config.json").read_text())
    assert settings["quantization"] == {"group_size": group_size, "bits": bits, "mode": mode}
    assert settings["quantization_config"] == settings["quantization"]
    load(out)


def test_a_converted_folder_answers_as_its_source(checkpoint, tmp_path):
    config = GenerationConfig(max_tokens=8)
    out = convert(checkpoint, tmp_path / "out")
    assert generate(*load(out), "sort a list", config) == generate(*load(checkpoint), "sort a list", config)


@pytest.mark.parametrize("quantize", [False, True])
def test_mlx_lms_own_loader_reads_what_we_write(checkpoint, tmp_path, quantize):
    from mlx_lm.utils import load_model

    # The group size divides every width of the fixtures but dream-b's down_proj.
    out = convert(checkpoint, tmp_path / "out", ConvertConfig(quantize=quantize, q_group_size=32 if quantize else None))
    theirs, _ = load_model(model_path=out, get_model_classes=lambda config: (DiffusionModel, ModelConfig))
    ours, _ = load(out)
    tokens = mx.array([[5, 6, 7, 8]])
    assert mx.array_equal(theirs(tokens), ours(tokens))


def test_dtype_is_cast_and_stated(tmp_path):
    out = convert(DATA / "dream-b", tmp_path / "out", ConvertConfig(dtype="bfloat16"))
    assert {value.dtype for value in arrays(out).values()} == {mx.bfloat16}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_the_folder_holds_all_that_running_it_takes_and_no_code(tmp_path):
    out = convert(DATA / "dream-a", tmp_path / "out")
    names = {file.name for file in out.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
    assert "auto_map" not in (out / "config.json").read_text() + (out / "tokenizer_config.json").read_text()
    card = (out / "README.md").read_text()
    assert "library_name: mlx" in card
    assert "# out" in card


def test_transformers_reads_our_tokenizer_without_remote_code(checkpoint, tmp_path):
    from transformers import AutoTokenizer

    out = convert(checkpoint, tmp_path / "out")
    theirs, ours = AutoTokenizer.from_pretrained(out), Tokenizer.load(out)
    for line in map(json.loads, (checkpoint / "reference_tokens.jsonl").read_text().splitlines()):
        assert theirs.encode(line["text"], add_special_tokens=False) == ours.encode(line["text"]) == line["ids"]


def test_the_licence_is_the_one_the_source_states(broken, tmp_path):
    (broken / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: some/base\n---\n# a model\n")
    card = (convert(broken, tmp_path / "out") / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "base_model: some/base" in card


def test_a_quantized_source_is_not_quantized_again(tmp_path):
    out = convert(DATA / "dream-a", tmp_path / "out", ConvertConfig(quantize=True))
    with pytest.raises(ConvertError, match="quantized already"):
        convert(out, tmp_path / "again", ConvertConfig(quantize=True))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"quantize": True, "q_bits": 7}, "q_bits"),
        ({"quantize": True, "q_group_size": 48}, "q_group_size"),
        ({"quantize": True, "q_mode": "mxfp4", "q_bits": 8}, "q_bits"),
        ({"quantize": True, "q_mode": "fp1"}, "q_mode"),
        ({"q_bits": 4}, "q_bits"),
        ({"q_mode": "nvfp4"}, "q_mode"),
        ({"dtype": "float64"}, "dtype"),
    ],
)
def test_options_that_mlx_does_not_have_are_named(options, field):
    with pytest.raises(ConfigError, match=f"^{field}") as caught:
        ConvertConfig(**options)
    assert caught.value.field == field


def test_permissions_are_the_users_own(tmp_path):
    os.umask(mask := os.umask(0))
    out = convert(DATA / "dream-b", tmp_path / "out")
    assert out.stat().st_mode & 0o777 == 0o777 & ~mask
    assert time.time() - out.stat().st_mtime < 60


def test_weights_are_no_programs(tmp_path):
    out = convert(DATA / "dream-b", tmp_path / "out")
    assert not (out / "model.safetensors").stat().st_mode & 0o111


def test_the_card_has_a_place_for_the_name_where_none_is_given(tmp_path):
    card = (convert(DATA / "dream-b", tmp_path / "out") / "README.md").read_text()
    assert "diffucode generate --model PATH-OR-ID " in card


def test_a_group_size_that_a_mode_does_not_have_is_named_with_the_mode():
    with pytest.raises(ConfigError, match="q_group_size must be one of 32 in mode mxfp4"):
        ConvertConfig(quantize=True, q_mode="mxfp4", q_group_size=64)


def test_a_download_gets_the_callers_progress_and_refresh(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(converter, "resolve", lambda source, **options: asked.append(options) or DATA / "dream-b")
    convert("owner/name", tmp_path / "a", downloading=print, refresh=True)
    convert("owner/name", tmp_path / "b")
    assert [(options["progress"], options["refresh"]) for options in asked] == [(print, True), (None, False)]
    headers = []
    monkeypatch.setattr(
        converter, "headers_only", lambda source, **options: headers.append(options) or nullcontext(DATA / "dream-b")
    )
    make_plan("owner/name", refresh=True)
    assert headers == [{"refresh": True}]
