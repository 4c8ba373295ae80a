"""Every format of mlx-lm's, against mlx-lm's own slow way of writing it, and what mlx-lm wrote, loaded."""

import json
import math
import shutil

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from mlx_diffucoder import DiffusionModel, ModelConfig, load
from mlx_diffucoder.checkpoint import INDEX, build
from mlx_diffucoder.convert import ConvertConfig, Width, convert, converter, make_plan, stream
from mlx_diffucoder.errors import ConfigError, ConvertError

from ..cli.command import diffucode
from ..conftest import DATA
from .test_convert import arrays

RECIPES = ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
FORMATS = {
    "as it is": ConvertConfig(),
    "float16": ConvertConfig(dtype="float16"),
    "4 bits": ConvertConfig(quantize=True, q_group_size=32),
    "3 bits of bfloat16": ConvertConfig(quantize=True, q_group_size=32, q_bits=3, dtype="bfloat16"),
    "mxfp8": ConvertConfig(quantize=True, q_mode="mxfp8"),
    "nvfp4": ConvertConfig(quantize=True, q_mode="nvfp4"),
    **{recipe: ConvertConfig(quantize=True, q_group_size=32, quant_predicate=recipe) for recipe in RECIPES},
}


def slowly(source, config, out):
    """What mlx-lm's own writer makes of the same model: whole shards, from memory."""
    model, settings, _ = converter.transform(*build(source), config, source)
    save_model(save_path=out, model=model)
    save_config(config=settings, config_path=out / "config.json")
    return out


def assert_same(ours, theirs):
    mine, other = arrays(ours), arrays(theirs)
    assert mine.keys() == other.keys()
    for name, value in other.items():
        assert mine[name].dtype == value.dtype, name
        assert mx.array_equal(mine[name], value), name
    for file in (INDEX, "config.json"):
        assert json.loads((ours / file).read_text()) == json.loads((theirs / file).read_text()), file


@pytest.fixture
def small_chunks(monkeypatch):
    """So few bytes at once that every matrix is read in many pieces, the last one shorter."""
    monkeypatch.setattr(stream, "CHUNK", 7000)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of at most 100 kB: mlx-lm counts in whole gigabytes."""

    def split(weights, max_file_size_gb=5):
        shards, size = [{}], 0
        for name, value in weights.items():
            if size + value.nbytes > 100_000 and shards[-1]:
                shards, size = [*shards, {}], 0
            shards[-1][name], size = value, size + value.nbytes
        return shards

    monkeypatch.setattr("mlx_lm.utils.make_shards", split)


@pytest.mark.parametrize("form", FORMATS)
def test_piece_by_piece_gives_what_mlx_lm_writes_whole(checkpoint, tmp_path, form, small_chunks, small_shards):
    ours = convert(checkpoint, tmp_path / "ours", FORMATS[form])
    assert len(list(ours.glob("model-*-of-*.safetensors"))) > 1
    assert_same(ours, slowly(checkpoint, FORMATS[form], tmp_path / "theirs"))
    load(ours)


@pytest.mark.parametrize("form", ["4 bits", "nvfp4", "mixed_3_6"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_dequantizing_gives_what_mlx_lm_writes(tmp_path, form, dtype, small_chunks, small_shards):
    quantized = convert(DATA / "dream-a", tmp_path / "quantized", FORMATS[form])
    config = ConvertConfig(dequantize=True, dtype=dtype)
    ours = convert(quantized, tmp_path / "ours", config)
    assert_same(ours, slowly(quantized, config, tmp_path / "theirs"))
    settings = json.loads((ours / "config.json").read_text())
    assert not {"quantization", "quantization_config"} & settings.keys()
    tokens = mx.array([[5, 6, 7, 8]])
    difference = mx.abs(load(ours)[0](tokens).astype(mx.float32) - load(quantized)[0](tokens).astype(mx.float32)).max()
    assert difference < (1e-3 if dtype is None else 0.1)


@pytest.mark.parametrize("form", ["4 bits", "mxfp8", "mixed_4_6"])
def test_a_quantized_source_is_copied_as_it_is(tmp_path, form):
    quantized = convert(DATA / "dream-a", tmp_path / "quantized", FORMATS[form])
    assert_same(convert(quantized, tmp_path / "copy"), quantized)


def test_nothing_to_dequantize_is_said(tmp_path):
    with pytest.raises(ConvertError, match="dream-b: is not quantized"):
        convert(DATA / "dream-b", tmp_path / "out", ConvertConfig(dequantize=True))


def test_each_layer_can_have_a_width_of_its_own(tmp_path):
    widths = {
        "lm_head": Width(8, 32),
        "model.layers.0.mlp.up_proj": Width(2, 64),
        "model.layers.1.mlp.up_proj": Width(4, 32, "mxfp4"),
    }
    config = ConvertConfig(quantize=True, widths=widths)
    assert make_plan(DATA / "dream-a", config).widths == widths
    out = convert(DATA / "dream-a", tmp_path / "out", config)
    assert make_plan(out).widths == widths
    load(out)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"widths": {"lm_head": Width(7, 32)}}, "widths"),
        ({"widths": {}, "quant_predicate": "mixed_3_6"}, "quant_predicate"),
        ({"q_bits": 4, "quant_predicate": "mixed_3_6"}, "q_bits"),
        ({"q_mode": "mxfp4", "quant_predicate": "mixed_3_6"}, "quant_predicate"),
        ({"quant_predicate": "mixed_1_2"}, "quant_predicate"),
        ({"dequantize": True}, "dequantize"),
        ({"quantize": False, "quant_predicate": "mixed_3_6"}, "quant_predicate"),
    ],
)
def test_what_contradicts_itself_is_named(options, field):
    with pytest.raises(ConfigError, match=f"^{field}") as caught:
        ConvertConfig(**{"quantize": True, **options})
    assert caught.value.field == field


def test_a_width_for_a_layer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no layer model\.layers\.9\.mlp"):
        convert(DATA / "dream-b", tmp_path / "out", ConvertConfig(quantize=True, widths={"model.layers.9.mlp": Width(4, 32)}))


@pytest.mark.parametrize("form", FORMATS)
def test_the_plan_is_what_is_written(checkpoint, tmp_path, form):
    plan = make_plan(checkpoint, FORMATS[form])
    out = convert(checkpoint, tmp_path / "out", FORMATS[form])
    written = arrays(out)
    assert plan.bytes_in == sum(value.nbytes for value in arrays(checkpoint).values())
    assert plan.bytes_out == sum(value.nbytes for value in written.values())
    assert {name.rpartition(".")[0] for name in written} == {layer.name for layer in plan.layers}
    for layer in plan.layers:
        assert layer.bytes_out == sum(value.nbytes for name, value in written.items() if name.rpartition(".")[0] == layer.name)
        assert (f"{layer.name}.scales" in written) == (layer.width is not None)
    # A reader's own count: packed weights are words of 32 bits, biases and norms are as many as their arrays.
    count = sum(value.size for name, value in arrays(checkpoint).items())
    assert plan.parameters == count
    assert math.isclose(plan.bits_per_weight, 8 * plan.bytes_out / count)


@pytest.fixture
def odd(tmp_path):
    """A copy of `dream-b` whose rows of 96 no group of 64 divides, but for one matrix in each layer."""
    folder = tmp_path / "odd"
    shutil.copytree(DATA / "dream-b", folder)
    weights = mx.load(str(folder / "model.safetensors"))
    for name in [name for name in weights if ".mlp." in name]:
        weights[name] = mx.random.normal((96, 128) if "down_proj" in name else (128, 96))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    settings = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 128}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_layers_whose_rows_a_group_does_not_divide_are_left_and_listed(odd, tmp_path):
    plan = make_plan(odd, ConvertConfig(quantize=True))
    assert plan.widths
    assert all(name.endswith("mlp.down_proj") for name in plan.widths)
    assert "model.layers.0.mlp.up_proj" in plan.left
    assert "model.norm" not in plan.left
    done = diffucode("convert", odd, tmp_path / "out", "-q")
    assert done.returncode == 0
    assert "their rows are not a multiple of 64: model.embed_tokens" in done.stderr.splitlines()[0]
    assert_same(tmp_path / "out", slowly(odd, ConvertConfig(quantize=True), tmp_path / "theirs"))
    with pytest.raises(ConvertError, match="no layer has rows that groups of 128 divide"):
        make_plan(DATA / "dream-b", ConvertConfig(quantize=True, q_group_size=128))


def published(out, *, recipe=None, group_size=None, **options):
    """A folder as mlx-community publishes them: every step mlx-lm's own."""
    model, settings = build(DATA / "dream-a")
    # `mlx_lm.convert` hands the group size on as the user gave it, None with no flag.
    predicate = mixed_quant_predicate_builder(recipe=recipe, model=model, group_size=group_size) if recipe else None
    model, settings = quantize_model(model=model, config=settings, group_size=group_size, quant_predicate=predicate, **options)
    save_model(save_path=out, model=model)
    save_config(config=settings, config_path=out / "config.json")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(DATA / "dream-a" / name, out / name)
    return out, model


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4},
        {"bits": 8, "group_size": 32},
        {"bits": None, "mode": "mxfp4"},
        {"bits": None, "mode": "nvfp4"},
        *({"bits": None, "recipe": recipe} for recipe in RECIPES),
    ],
    ids=str,
)
def test_what_mlx_lm_publishes_loads_and_answers_alike(tmp_path, options, small_shards):
    folder, model = published(tmp_path / "published", **options)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    ours, _ = load(folder)
    tokens = mx.array([[5, 6, 7, 8]])
    assert mx.array_equal(ours(tokens), model(tokens))
    assert_same_arrays(convert(folder, tmp_path / "copy"), folder)


def assert_same_arrays(one, other):
    mine, theirs = arrays(one), arrays(other)
    assert mine.keys() == theirs.keys()
    assert all(mx.array_equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("form", FORMATS)
def test_mlx_lms_load_model_reads_every_format(checkpoint, tmp_path, form, small_shards):
    out = convert(checkpoint, tmp_path / "out", FORMATS[form])
    theirs, _ = load_model(model_path=out, get_model_classes=lambda config: (DiffusionModel, ModelConfig))
    written = arrays(out)
    for name, value in tree_flatten(theirs.parameters()):
        assert mx.array_equal(value, written[name]), name
