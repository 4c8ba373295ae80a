"""Open-dCoder: Qwen2 with tied embeddings, full bidirectional attention and logits shifted right by one.

Its `config.json` is Qwen2's. What tells it from an autoregressive model is its mask, the token `<M>` that was added to the
tokenizer; no file states its id as the mask's.

Source: fredzzp/open-dcoder-0.5B (github.com/pengzhangzhi/Open-dLLM).
"""

from collections.abc import Mapping
from typing import Any

from .base import Family, Publication

MASK = "<M>"


class _OpenDCoder(Family):
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return config.get("model_type") == "qwen2" and MASK in added


OPEN_DCODER = _OpenDCoder(
    name="Open-dCoder",
    models="Open-dCoder-0.5B",
    shift=1,
    chat_end="<|im_end|>",
    text_ends=("<|endoftext|>",),
    pad_token="<|endoftext|>",
    mask_token=MASK,
    # Of its evaluation. Its own algorithm, `p2`, which masks tokens again, is not here.
    publications=(Publication(None, {"max_tokens": 128, "temperature": 0.8, "top_p": 0.95}),),
)
