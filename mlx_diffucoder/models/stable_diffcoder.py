"""Stable-DiffCoder: Llama with block-causal attention, in blocks of 4, whose logits are not shifted.

Its `model_type` is Llama's, and no file names the mask: it is the code's own default.

Source: ByteDance-Seed/Stable-DiffCoder-8B-Instruct (`generate_block` of its `modeling_stable_diffcoder.py`).
"""

from collections.abc import Mapping
from typing import Any

from .base import Family, Publication, names_in

NO_SUFFIX = {"infill": "a block does not see the text after it"}
NAMES = {"StableDiffcoderForCausalLM", "modeling_stable_diffcoder", "modeling_seed_diffcoder"}


class _StableDiffCoder(Family):
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return bool(NAMES & names_in(config))


STABLE_DIFFCODER = _StableDiffCoder(
    name="Stable-DiffCoder",
    models="Stable-DiffCoder-8B",
    shift=0,
    attention="block-causal",
    block_length=4,
    qkv_bias=False,
    chat_end="<[end▁of▁sentence]>",
    text_ends=("<[end▁of▁sentence]>",),
    mask_token_id=5,
    rule="threshold:tau=0.95",
    window="block-causal:length=4",
    alg="maskgit_plus",
    cannot=NO_SUFFIX,
    middle={"suffix": "<[fim-suffix]>", "prefix": "<[fim-prefix]>", "middle": "<[fim-middle]>"},  # as Seed-Coder's card has them
    publications=(Publication(None, {"max_tokens": 512}),),  # the card's example: one token a step
)
