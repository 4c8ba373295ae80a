"""What holds for a checkpoint of every family: convert, quantize, decode, infill, compare and train."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_diffucoder import GenerationConfig, generate, infill, load, stream_generate
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.decoding.reference import Hooks
from mlx_diffucoder.divergence.forwards import outputs_by_layer
from mlx_diffucoder.divergence.masking import Masked
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.evaluation.orders import CONFIDENCE
from mlx_diffucoder.models import FAMILIES
from mlx_diffucoder.training.learners import Tuning, from_checkpoint

from ..training.small import write_rows
from ..training.test_trainer import job_of, run
from .tiny import NAMES, OWN, tiny_checkpoint

BLOCK_CAUSAL = [family.name for family in FAMILIES if family.attention == "block-causal"]
PROMPT = [40, 90, 200, 310, 41]


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tmp_path_factory):
    return tiny_checkpoint(request.param, tmp_path_factory.mktemp("tiny"))


def weights_of(folder):
    return dict(tree_flatten(load(folder, dtype="float32")[0].parameters()))


def test_every_family_has_a_tiny_checkpoint_that_is_recognized_as_its_own(folder):
    model, tokenizer = load(folder)
    assert model.family.name == folder.name
    assert tokenizer.mask_id == model.config.mask_token_id
    assert set(OWN) == set(NAMES)


def test_converted_to_float32_it_is_identical(folder, tmp_path):
    out = convert(folder, tmp_path / "out")
    before, after = weights_of(folder), weights_of(out)
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[name], after[name]) for name in before)
    config = GenerationConfig(max_tokens=8)
    assert generate(*load(out), PROMPT, config) == generate(*load(folder), PROMPT, config)


def test_quantized_it_is_mx_quantize_of_every_matrix(folder, tmp_path):
    out = convert(folder, tmp_path / "out", ConvertConfig(quantize=True, q_bits=4, q_group_size=32))
    model, _ = load(out, lazy=True)
    assert model.family.name == folder.name
    after = dict(tree_flatten(model.parameters()))
    for name, value in weights_of(folder).items():
        if value.ndim == 2:
            parts = mx.quantize(value, group_size=32, bits=4)
            layer = name.removesuffix(".weight")
            kinds = zip(("weight", "scales", "biases"), parts, strict=True)
            assert all(mx.array_equal(after[f"{layer}.{kind}"], one) for kind, one in kinds), name


@pytest.mark.parametrize(
    "fields", [{}, {"rule": "entropy-bound"}, {"steps": 4}, {"temperature": 0.8, "seed": 3}, {"window": "whole"}]
)
def test_it_decodes_with_its_defaults_and_refuses_at_the_call_what_it_cannot(folder, fields):
    model, tokenizer = load(folder)
    config = GenerationConfig(max_tokens=8, **fields)
    if folder.name in BLOCK_CAUSAL and "window" in fields:
        with pytest.raises(ConfigError, match="window"):
            stream_generate(model, tokenizer, PROMPT, config)
        return
    if tokenizer.sizes and {"rule", "steps"} & fields.keys():
        with pytest.raises(ConfigError, match="whose canvas changes its length"):
            list(stream_generate(model, tokenizer, PROMPT, config))
        return
    *_, last = stream_generate(model, tokenizer, PROMPT, config)
    assert len(last.tokens) == len(PROMPT) + 8 or tokenizer.sizes
    assert tokenizer.mask_id not in last.tokens


def test_it_infills_or_says_why_not(folder):
    model, tokenizer = load(folder)
    if folder.name in BLOCK_CAUSAL:
        with pytest.raises(ConfigError, match=f"^{folder.name} models cannot do infill: a block does not see the text after it$"):
            infill(model, tokenizer, "a = 1\n", "b = 2\n")
        return
    config = GenerationConfig(max_tokens=4, window="auto" if tokenizer.sizes else "sliding")
    assert isinstance(infill(model, tokenizer, "a = 1\n", "b = 2\n", config), str)


@pytest.mark.parametrize("usual", [HOLES, CONFIDENCE], ids=["holes", "orders"])
def test_a_window_that_nobody_asked_for_gives_way_to_the_family_s_own(folder, usual):
    model, tokenizer = load(folder)
    config = GenerationConfig(**usual).for_model(model)
    own = folder.name in BLOCK_CAUSAL or tokenizer.sizes
    assert config.window == (model.family.window if own else usual["window"])
    assert "rule" in usual or config.rule == (model.family.rule if own else "threshold:tau=0.9")
    if own:
        with pytest.raises(ConfigError, match=r"^window sliding"):
            asked = GenerationConfig(**{**usual, "window": str(usual["window"])})
            list(stream_generate(model, tokenizer, PROMPT, asked))


def test_hooks_see_the_whole_canvas_or_are_refused(folder):
    model, tokenizer = load(folder)
    seen, config = [], GenerationConfig(max_tokens=4, rule="schedule", window="auto")
    hooks = Hooks(tokens=lambda index, tokens, logits: seen.append(tokens.shape) or tokens)
    if folder.name in BLOCK_CAUSAL or tokenizer.sizes:
        with pytest.raises(ConfigError, match=f"^hooks see the whole canvas, which .* with {folder.name} models$"):
            stream_generate(model, tokenizer, PROMPT, config, hooks=hooks)
    else:
        list(stream_generate(model, tokenizer, PROMPT, config, hooks=hooks))
    assert seen == ([] if folder.name in BLOCK_CAUSAL or tokenizer.sizes else [(1, len(PROMPT) + 4)] * 5)


def test_layer_by_layer_it_computes_what_the_whole_network_does(folder):
    model, tokenizer = load(folder, dtype="float32")
    tokens = np.array([*PROMPT, *[tokenizer.mask_id] * 6], dtype=np.int32)
    at = np.array([6, 9, 10], dtype=np.int32)
    outputs = outputs_by_layer(lambda: model, [Masked(0, 0.5, tokens, at, tokens[at])], keep=True)
    logits = model(mx.array(tokens)[None])[0]
    assert mx.allclose(outputs.head(outputs.rows[0]), logits[mx.array(at - model.shift)], atol=1e-3)


@pytest.mark.parametrize("steps", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_a_lora_lowers_the_loss(folder, tmp_path, steps):
    learner = from_checkpoint(folder, folder.name, Tuning(tune="lora", rank=4), 0)
    job = job_of(
        write_rows(tmp_path / "rows.jsonl", 8), steps, learner, infill=0, accumulate=1, batch_size=4, learning_rate=1e-2, warmup=1
    )
    evaluate = job.evaluation()
    before = evaluate(learner.model)
    run(job, tmp_path / "out")
    assert evaluate(learner.model) < (0.95 if steps < 300 else 0.5) * before
    assert load(folder, adapter=tmp_path / "out")[0].family.name == folder.name
