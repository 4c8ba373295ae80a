"""SDAR: Qwen3 with block-causal attention, whose logits are not shifted.

Models were published for blocks of 4 to 64; `block_size` in `config.json` says which.

Source: JetLM/SDAR-8B-Chat (arXiv 2510.06303).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import is_number
from ..errors import ConfigError
from .base import NO_TOKENS, Family, ModelConfig, Publication, names_in
from .stable_diffcoder import NO_SUFFIX

PUBLISHED = {"temperature": 1.0, "rule": "threshold:tau=0.85", "window": "auto"}
"""The defaults of the published `generate.py`."""


class _SDAR(Family):
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return config.get("model_type") == "sdar" or "SDARForCausalLM" in names_in(config)

    def read_config(self, config: Mapping[str, Any], added: Mapping[str, int] = NO_TOKENS) -> ModelConfig:
        read, size = super().read_config(config, added), config.get("block_size")
        if size is None:
            return read
        if not is_number(size, int) or not 1 <= size <= read.max_position_embeddings:
            raise ConfigError(f"block_size is {json.dumps(size)}; it must be a whole number from 1 to max_position_embeddings")
        return replace(read, block_length=size)


SDAR = _SDAR(
    name="SDAR",
    models="SDAR-1.7B to 8B",
    shift=0,
    attention="block-causal",
    block_length=4,
    qkv_bias=False,
    qk_norm=True,
    states_head_dim=True,
    chat_end="<|im_end|>",
    text_ends=("<|endoftext|>",),
    pad_token="<|endoftext|>",
    mask_token="<|MASK|>",
    rule="threshold:tau=0.9",
    window="block-causal:length=4",
    alg="maskgit_plus",
    cannot=NO_SUFFIX,
    middle={"prefix": "<|fim_prefix|>", "suffix": "<|fim_suffix|>", "middle": "<|fim_middle|>"},  # Qwen's
    publications=(Publication(None, PUBLISHED),),
)
