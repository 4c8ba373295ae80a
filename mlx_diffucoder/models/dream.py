"""Dream's architecture: Qwen2 with full bidirectional attention, and logits shifted right by one.

Source: Dream 7B (arXiv 2508.15487); DiffuCoder (arXiv 2506.20639) and Dream-Coder use it unchanged.
"""

from collections.abc import Mapping
from typing import Any

from .base import Family


class _Dream(Family):
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return config.get("model_type") == "Dream"


DREAM = _Dream(
    name="Dream",
    models="DiffuCoder, Dream and Dream-Coder",
    shift=1,
    chat_end="<|im_end|>",
    text_ends=("<|endoftext|>", "<|dlm_pad|>"),
    pad_token="<|dlm_pad|>",
)
