"""LLaDA: a Llama-like network with full bidirectional attention and no shift, with names of its own in all files.

Source: GSAI-ML/LLaDA-8B-Instruct and LLaDA-1.5 (arXiv 2502.09992).
"""

import json
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .base import NO_TOKENS, Family, ModelConfig, names_in

KEYS = {
    "d_model": "hidden_size",
    "mlp_hidden_size": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "max_sequence_length": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "vocab_size": "vocab_size",
}
"""The keys of `config.json`, and ours. All but `n_kv_heads` must be there."""
MEANT: dict[str, Any] = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "input_emb_norm": False,
    "multi_query_attention": False,
    "scale_logits": False,
    "block_group_size": 1,
    "clip_qkv": None,
}
"""Keys that change what the network computes, and the only value that this one computes. Null changes nothing."""
TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


class _LLaDA(Family):
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return config.get("model_type") == "llada" or "LLaDAModelLM" in names_in(config)

    def read_config(self, config: Mapping[str, Any], added: Mapping[str, int] = NO_TOKENS) -> ModelConfig:
        for key, value in MEANT.items():
            if config.get(key) not in (None, value):
                raise ConfigError(f"{key} {json.dumps(config[key])} is not supported: only {json.dumps(value)}")
        if missing := next((key for key in KEYS if config.get(key) is None and key != "n_kv_heads"), None):
            raise ConfigError(f"{missing} is missing")
        ours = {own: config.get(key) for key, own in KEYS.items()}
        ours["vocab_size"] = config.get("embedding_size") or config["vocab_size"]  # the rows of the embeddings
        ours["num_key_value_heads"] = config.get("n_kv_heads") or config["n_heads"]
        ours["rms_norm_eps"] = config.get("rms_norm_eps", 1e-5)
        ours["tie_word_embeddings"] = self.tied(config)
        try:
            return super().read_config(ours | {"mask_token_id": config.get("mask_token_id")}, added)
        except ConfigError as error:
            line = str(error)
            for key, own in (*KEYS.items(), *([("weight_tying", "tie_word_embeddings")] if "weight_tying" in config else [])):
                line = line.replace(own, key)  # the user's file has these
            raise ConfigError(line) from None

    def weight_name(self, stored: str, config: ModelConfig) -> str | None:
        path = stored.split(".")
        if path[:3] == ["model", "transformer", "blocks"] and len(path) == 6:
            stored = f"model.layers.{path[3]}.{IN_BLOCK.get(path[4], path[4])}.{path[5]}"
        elif path[:2] == ["model", "transformer"] and len(path) == 4:
            stored = f"{TOP.get(path[2], path[2])}.{path[3]}"
        return super().weight_name(stored, config)


LLADA = _LLaDA(
    name="LLaDA",
    models="LLaDA-8B and LLaDA-1.5",
    shift=0,
    qkv_bias=False,
    chat_end="<|eot_id|>",
    text_ends=("<|endoftext|>",),
    pad_token="<|endoftext|>",
    mask_token_id=126336,
    tying=("tie_word_embeddings", "weight_tying"),  # the first is ours, in converted checkpoints
    alg="maskgit_plus",
)
