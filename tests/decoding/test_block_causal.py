"""The window block-causal, against a slow decoder without a cache, and what block-causal models refuse."""

import json
import shutil
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, generate_batch, load, stream_batch, stream_generate
from mlx_diffucoder.decoding.windows import block_causal
from mlx_diffucoder.decoding.windows.block_causal import plan_forward
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.infilling.fill import fill

from ..conftest import DATA
from .block_oracle import Network, decode, read_weights

FOLDER = DATA / "stable-diffcoder-a"
# Of a word and a half to a few blocks: their ends share blocks with the answer in all ways.
PROMPTS = [[31, 77, 400], [9, 100, 200, 300], [11, 12, 13, 14, 15, 16], [500, 3, 7, 81, 90, 22, 19, 45, 63, 77, 12, 30, 41]]


@pytest.fixture(scope="module")
def diffcoder():
    return load(FOLDER)


@pytest.fixture(scope="module")
def sdar(tmp_path_factory):
    """An untrained SDAR with blocks of 8 and heads wider than hidden_size / num_attention_heads."""
    folder = tmp_path_factory.mktemp("sdar")
    for file in FOLDER.glob("*token*"):
        shutil.copyfile(file, folder / file.name)
    config = json.loads((FOLDER / "config.json").read_text())
    config |= {"model_type": "sdar", "architectures": ["SDARForCausalLM"], "auto_map": {"AutoModel": "modeling_sdar.SDARModel"}}
    config |= {"head_dim": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "mask_token_id": 5, "block_size": 8}
    shape = {"q_proj": (128, 96), "k_proj": (64, 96), "v_proj": (64, 96), "o_proj": (96, 128)}
    rng, weights = np.random.default_rng(3), {}
    for layer in range(2):
        name = f"model.layers.{layer}"
        for part, size in shape.items():
            weights[f"{name}.self_attn.{part}.weight"] = rng.normal(0, 0.15, size)
        for part, size in {"gate_proj": (192, 96), "up_proj": (192, 96), "down_proj": (96, 192)}.items():
            weights[f"{name}.mlp.{part}.weight"] = rng.normal(0, 0.15, size)
        for part, size in {
            "self_attn.q_norm": 32,
            "self_attn.k_norm": 32,
            "input_layernorm": 96,
            "post_attention_layernorm": 96,
        }.items():
            weights[f"{name}.{part}.weight"] = rng.uniform(0.5, 1.5, size)
    weights |= {name: rng.normal(0, 0.5, (776, 96)) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    weights["model.norm.weight"] = rng.uniform(0.5, 1.5, 96)
    mx.save_safetensors(
        str(folder / "model.safetensors"), {name: mx.array(one.astype(np.float32)) for name, one in weights.items()}
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def expected_of(folder, loaded, prompt, config, block):
    network = Network(json.loads((folder / "config.json").read_text()), read_weights(folder))
    forbidden = np.flatnonzero(np.array(forbidden_ids(loaded[1], 776))).tolist()
    fields = {"steps": config.steps or config.max_tokens, "threshold": config.threshold, "mask_id": 5}
    return decode(network, prompt, config.max_tokens, block=block, forbidden=forbidden, **fields)


def test_a_plan_is_as_drawn():
    plan = plan_forward(np.array([False] * 8 + [True] * 9), 4, 4)
    assert (plan.first, plan.block, plan.end) == (4, 8, 12)
    assert "forwarded      ########\n" in plan_forward.__doc__


def test_sdar_decodes_as_the_oracle_in_its_own_blocks(sdar):
    loaded = load(sdar)
    ids = PROMPTS[3]
    network = Network(json.loads((sdar / "config.json").read_text()), read_weights(sdar))
    logits = network(ids, 8)
    assert np.abs(np.array(loaded[0](mx.array([ids])))[0] - logits).max() <= 1e-4 * np.abs(logits).max()
    config = GenerationConfig(max_tokens=24, threshold=0.2, end_ids=())
    canvases = [step.tokens.tolist() for step in stream_generate(*loaded, ids, config)]
    assert canvases == expected_of(sdar, loaded, ids, config, 8)


@pytest.mark.parametrize("fields", [{"steps": 12, "block_length": 4}, {"threshold": 0.3, "block_length": 3}, {"threshold": 0.2}])
def test_each_row_of_a_batch_is_the_prompt_alone(diffcoder, fields):
    config = GenerationConfig(max_tokens=24, end_ids=(), **fields)
    *_, together = stream_batch(*diffcoder, PROMPTS, config)
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert row.tokens.tolist() == expected_of(FOLDER, diffcoder, prompt, config, config.block_length or 4)[-1]
        assert max(row.rows[1:]) <= len(PROMPTS) * 2 * (config.block_length or 4)


def test_chunks_of_a_long_prompt_change_nothing(diffcoder, monkeypatch):
    prompt = np.random.default_rng(0).integers(8, 700, 61).tolist()
    config = GenerationConfig(max_tokens=12, threshold=0.3, end_ids=())
    *_, whole = stream_batch(*diffcoder, [prompt, prompt[:30]], config)
    monkeypatch.setattr(block_causal, "CHUNK", 10)
    *_, chunks = stream_batch(*diffcoder, [prompt, prompt[:30]], config)
    assert [row.tokens.tolist() for row in whole] == [row.tokens.tolist() for row in chunks]
    assert chunks[0].nfe == whole[0].nfe + 7  # 60 positions in chunks of 8


def test_masks_among_a_prompts_ids_are_filled_block_after_block(diffcoder):
    prompt = [31, 77, 5, 400, *range(20, 33), 5, 40]
    steps = list(stream_generate(*diffcoder, prompt, GenerationConfig(max_tokens=6, end_ids=())))
    assert not (steps[-1].tokens == 5).any()
    assert all(before.committed[0] // 4 <= after.committed[0] // 4 for before, after in pairwise(steps))


def test_draws_stay_in_the_current_block_and_finished_blocks_never_change(diffcoder):
    config = GenerationConfig(max_tokens=30, temperature=1.2, top_p=0.9, seed=3, end_ids=())
    steps = list(stream_generate(*diffcoder, PROMPTS[2], config))
    assert len({step.committed[0] // 4 for step in steps}) == 8
    for before, after in pairwise(steps):
        known = before.tokens != 5
        assert (after.tokens[known] == before.tokens[known]).all()
        assert len(set((after.committed // 4).tolist())) == 1
    again = list(stream_generate(*diffcoder, PROMPTS[2], config))
    assert again[-1].tokens.tolist() == steps[-1].tokens.tolist()


def test_the_default_is_balanced_in_blocks_and_exact_is_one_token_a_step(diffcoder):
    model, _ = diffcoder
    balanced, exact = (GenerationConfig.preset(name).for_model(model) for name in ("balanced", "exact"))
    assert balanced == GenerationConfig().for_model(model) == balanced.for_model(model)
    assert (balanced.rule, balanced.window, balanced.alg) == ("threshold:tau=0.95", "block-causal:length=4", "maskgit_plus")
    assert (exact.rule, exact.window) == ("schedule", "block-causal:length=4")
    texts = generate_batch(*diffcoder, ["sort a list", "add"], GenerationConfig(max_tokens=10))
    assert len(texts) == 2


@pytest.mark.parametrize("end", range(5))
def test_decoding_ends_when_no_text_can_change(diffcoder, end):
    free = GenerationConfig(max_tokens=20, end_ids=())
    *_, last = stream_generate(*diffcoder, PROMPTS[1], free)
    token = int(last.tokens[4 + 4 * end])
    *_, stopped = stream_generate(*diffcoder, PROMPTS[1], GenerationConfig(max_tokens=20, end_ids=(token,)))
    at = int(np.flatnonzero(last.tokens[4:] == token)[0]) + 5
    assert stopped.tokens[:at].tolist() == last.tokens[:at].tolist()
    assert stopped.window[1] <= -(-at // 4) * 4


def test_a_row_that_has_ended_waits_for_the_others(diffcoder):
    free = GenerationConfig(max_tokens=20, end_ids=())
    *_, (row, _) = stream_batch(*diffcoder, [[31], PROMPTS[3]], free)
    config = GenerationConfig(max_tokens=20, end_ids=(int(row.tokens[1]),))  # in the first block: nothing is in the cache
    *_, (ended, other) = stream_batch(*diffcoder, [[31], PROMPTS[3]], config)
    assert not len(ended.committed) and ended.nfe < other.nfe
    assert set(ended.tokens[4:].tolist()) == {diffcoder[1].pad_id}
    *_, alone = stream_generate(*diffcoder, PROMPTS[3], config)
    assert other.tokens.tolist() == alone.tokens.tolist()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"window": "tree"}, "window tree is not for Stable-DiffCoder models; they need block-causal:length=4"),
        ({"window": "whole"}, "window whole is not for Stable-DiffCoder"),
        ({"window": "sliding", "rule": "leftmost"}, "window sliding is not for"),
        ({"max_tokens": 16, "steps": 6}, "steps must be a multiple of 4, the blocks of 4 in max_tokens 16, not 6"),
        ({"max_tokens": 18, "reference": True}, "max_tokens must be a multiple of block_length 4 for reference, not 18"),
        ({"alg": "entropy", "reference": True, "max_tokens": 16}, "alg must be maskgit_plus for reference"),
        ({"rule": "leftmost", "reference": True}, "reference needs"),
        ({"eps": 0.1}, "eps is for the schedule of timesteps"),
        ({"alg_temp": 0.1}, "alg_temp is for the schedule of timesteps"),
        ({"rule": "leftmost", "steps": 256}, "steps is for the rule schedule, and rule is leftmost"),
        ({"block_length": 0}, "block_length must be a whole number"),
        ({"block_length": True}, "block_length must be a whole number"),
        ({"block_length": 4, "window": "whole"}, "block_length 4 does not fit the window whole"),
        ({"block_length": 4, "window": "block-causal:length=8"}, "block_length 4 does not fit the window block-causal:length=8"),
        ({"block_length": 8193}, "window block-causal:length=8193 does not fit: the model's context is 8192 tokens"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1"),
        ({"threshold": 0.5, "rule": "leftmost"}, "threshold is for the rule threshold, and rule is leftmost"),
    ],
)
def test_what_cannot_be_decoded_is_one_line(diffcoder, fields, named):
    with pytest.raises(ConfigError, match=f"^{named}") as caught:
        stream_generate(*diffcoder, PROMPTS[0], GenerationConfig(**fields))
    assert caught.value.field


def test_a_block_longer_than_the_canvas_forwards_the_canvas(diffcoder):
    *_, last = stream_generate(*diffcoder, PROMPTS[0], GenerationConfig(max_tokens=4, block_length=512, steps=4, end_ids=()))
    assert last.positions == 4 * (len(PROMPTS[0]) + 4)


@pytest.mark.parametrize("fields", [{"block_length": 4}, {"window": "block-causal"}])
def test_other_models_have_no_blocks(dream_a, fields):
    with pytest.raises(ConfigError, match=r"window block-causal.* is not for Dream models; their attention is not block-causal"):
        stream_generate(*dream_a, PROMPTS[0], GenerationConfig(**fields))


def test_a_threshold_is_any_models_rule(dream_a):
    config = GenerationConfig(threshold=0.7, max_tokens=4).for_model(dream_a[0])
    assert (config.rule, config.window) == ("threshold:tau=0.7", "tree:rows=32")
    with pytest.raises(ConfigError, match="steps is for the rule schedule"):
        stream_generate(*dream_a, PROMPTS[0], GenerationConfig(threshold=0.7, steps=4, max_tokens=4))


def test_infilling_is_refused_with_the_reason(diffcoder):
    with pytest.raises(ConfigError, match="Stable-DiffCoder models cannot do infill: a block does not see the text after it"):
        fill(*diffcoder, ["a = ", None, "\n"])


@pytest.mark.parametrize("size", [0, -1, "4", 1.5, True, 2**30])
def test_a_block_size_that_cannot_be_is_named(sdar, tmp_path, edit_json, size):
    shutil.copytree(sdar, tmp_path / "copy")
    edit_json(tmp_path / "copy" / "config.json", block_size=size)
    with pytest.raises(ConfigError, match=r"config\.json: block_size is .*; it must be a whole number"):
        load(tmp_path / "copy")
