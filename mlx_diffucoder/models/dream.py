"""Dream's architecture: Qwen2 with full bidirectional attention, and logits shifted right by one.

Source: Dream 7B (arXiv 2508.15487); DiffuCoder (arXiv 2506.20639) and Dream-Coder use it unchanged.
"""

from collections.abc import Mapping
from typing import Any

from .base import Family, Publication


class _Dream(Family):
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return config.get("model_type") == "Dream" and config.get("expand_token_id") is None and "<|expand|>" not in added


# Where nothing else is said, one token a step by the score `entropy`, which are the defaults.
_NUCLEUS = {"top_p": 0.95}
PUBLICATIONS = (
    Publication("d3LLM", {"max_tokens": 256, "rule": "entropy:gamma=0.5", "window": "ahead:block=32,add=0.1,decoded=0.95"}),
    Publication("DiffuCoder", {"max_tokens": 256, "temperature": 0.3, **_NUCLEUS}),
    Publication("Dream-Coder", {"max_tokens": 768, "temperature": 0.1, **_NUCLEUS}),
    Publication(None, {"max_tokens": 512, "temperature": 0.2, **_NUCLEUS}),
)
"""By the examples on the cards of apple/DiffuCoder-7B-Instruct, Dream-org/Dream-Coder-v0-Instruct-7B and
Dream-org/Dream-v0-Instruct-7B, and by the public code of d3LLM. That decoder computes the whole canvas in each forward, so it is
the preset `published` only; by default d3LLM-Coder decodes with the tree, as the family does (docs/guides/accelerate.md)."""

DREAM = _Dream(
    name="Dream",
    models="DiffuCoder, Dream, Dream-Coder and d3LLM-Coder",
    shift=1,
    chat_end="<|im_end|>",
    text_ends=("<|endoftext|>", "<|dlm_pad|>"),
    pad_token="<|dlm_pad|>",
    publications=PUBLICATIONS,
)
