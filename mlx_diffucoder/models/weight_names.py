"""Names of weights: what trainers put around a network's own names."""

import re
from collections.abc import Collection

WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into a name, anywhere."""
LAST_NORM = "model.norm.weight"
"""A weight that every network has once. What stands before its name stands before every name."""
HEAD = ("lm_head.weight", "lm_head.scales", "lm_head.biases")
EMBEDDINGS = ("model.embed_tokens.weight", "model.embed_tokens.scales", "model.embed_tokens.biases")


def unwrapped(names: Collection[str]) -> dict[str, str]:
    """Each name and the name without what a trainer put around it.

    A prefix (`module.` of DistributedDataParallel, `base_model.model.` of PEFT) is taken off only if every name has it.
    """
    plain = {name: WRAPPERS.sub("", name) for name in names}
    prefixes = {name.removesuffix(LAST_NORM) for name in plain.values() if name.endswith(f".{LAST_NORM}")}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    if not all(name.startswith(prefix) for name in plain.values()):
        return plain
    return {name: one.removeprefix(prefix) for name, one in plain.items()}
