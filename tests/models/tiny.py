"""A tiny random checkpoint of every family, in its publisher's layout."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_diffucoder.models import FAMILIES, family_of
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.tokenizer_files import added_tokens

from ..conftest import DATA

SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
OWN = {
    "CoDA": ("coda-a", {"head_dim": 32}),
    "Dream": ("dream-a", {}),
    "DreamOn": ("dreamon-a", {}),
    "LLaDA": (
        "dream-a",
        {
            "model_type": "llada",
            "architectures": ["LLaDAModelLM"],
            "auto_map": None,
            **dict.fromkeys((*SHAPE, "max_position_embeddings", "hidden_act", "tie_word_embeddings")),
            **{"d_model": 64, "mlp_hidden_size": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_sequence_length": 2048},
            **{"rope": True, "block_type": "llama", "activation_type": "silu", "rms_norm_eps": 1e-5, "weight_tying": False},
        },
    ),
    "Open-dCoder": (
        "dream-a",
        {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "auto_map": None,
            "mask_token_id": None,
            "tie_word_embeddings": True,
        },
    ),
    "SDAR": (
        "dream-a",
        {"model_type": "sdar", "architectures": ["SDARForCausalLM"], "auto_map": None, "head_dim": 32, "block_size": 4},
    ),
    "Stable-DiffCoder": ("stable-diffcoder-a", {}),
}
"""By family, the folder of its tokenizer and `config.json`, and the keys that differ from it; None drops one."""
LLADA_NAMES = (
    ("model.embed_tokens", "model.transformer.wte"),
    ("model.norm", "model.transformer.ln_f"),
    ("lm_head", "model.transformer.ff_out"),
    ("model.layers", "model.transformer.blocks"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ff_norm"),
    ("self_attn.o_proj", "attn_out"),
    ("self_attn.", ""),
    ("mlp.gate_proj", "ff_proj"),
    ("mlp.down_proj", "ff_out"),
    ("mlp.", ""),
)
NAMES = tuple(sorted(family.name for family in FAMILIES))


def tiny_checkpoint(name: str, folder: Path) -> Path:
    """A new folder below `folder`, with random float32 weights."""
    like, changes = OWN[name]
    out = folder / name
    out.mkdir()
    for file in (DATA / like).iterdir():
        if not file.name.startswith(("model", "expected", "reference", "config.json")):
            shutil.copyfile(file, out / file.name)
    if name == "Open-dCoder":
        settings = json.loads((out / "tokenizer_config.json").read_text())
        settings["added_tokens_decoder"]["757"]["content"] = "<M>"
        (out / "tokenizer_config.json").write_text(json.dumps(settings))
        (out / "added_tokens.json").write_text(json.dumps({"<M>": 757}))
    raw = {**json.loads((DATA / like / "config.json").read_text()), **SHAPE, **changes}
    (out / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    write_weights(out, {key: value for key, value in raw.items() if value is not None})
    return out


def write_weights(out: Path, raw: dict) -> None:
    family = family_of(raw, added_tokens(out))
    model = DiffusionModel(family.read_config(raw, added_tokens(out)), family)
    rng = np.random.default_rng(5)
    weights = {}
    for one, value in tree_flatten(model.parameters()):
        scale = 0.3 if value.ndim == 2 else 0.1
        weights[one] = mx.array((rng.normal(0, scale, value.shape) + (value.ndim == 1 and "norm" in one)).astype(np.float32))
    mx.save_safetensors(str(out / "model.safetensors"), {own_name(family.name, one): value for one, value in weights.items()})


def own_name(family: str, name: str) -> str:
    """The name that a publisher gives a weight."""
    if family != "LLaDA":
        return name
    for one, other in LLADA_NAMES:
        name = name.replace(one, other)
    return name
