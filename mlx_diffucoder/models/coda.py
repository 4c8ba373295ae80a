"""CoDA: Qwen3 with full bidirectional attention, and Dream's shift and decoder.

Its `config.json` has no end token (the tokenizer has) and no `tie_word_embeddings`: the weights have a head of their own.

Source: Salesforce/CoDA-v0-Instruct (arXiv 2510.03270).
"""

from collections.abc import Mapping
from typing import Any

from .base import Family, Publication, names_in


class _CoDA(Family):
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return config.get("model_type") == "CoDA" or "CoDALanguageModel" in names_in(config)


CODA = _CoDA(
    name="CoDA",
    models="CoDA-1.7B",
    shift=1,
    qkv_bias=False,
    qk_norm=True,
    states_head_dim=True,
    chat_end="<|im_end|>",
    text_ends=("<|endoftext|>",),
    pad_token="<|endoftext|>",
    publications=(Publication(None, {"max_tokens": 256, "steps": 128, "alg_temp": 0.1}),),  # of its server
)
