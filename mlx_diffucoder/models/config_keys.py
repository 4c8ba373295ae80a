"""Keys of a `config.json` that change what the network computes. Each is read or refused.

A key that is silently ignored gives wrong text with exit code 0. So the keys by which published configurations change a
Qwen2-like network are listed here with the values that mean "as this network computes it".
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

SHOWN = 200  # characters of a value in an error

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "use_sliding_window": (False,),
    "is_causal": (False,),
    "clip_qkv": (),
    "mlp_bias": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "norm_type": ("rms", "rmsnorm"),
    "position_embedding_type": ("rope", "rotary"),
    "query_pre_attn_scalar": (),
    "scale_depth": (),
    "scale_emb": (1,),
    "use_qk_norm": (False,),
}
"""Keys and the values that change nothing. Null, and a missing key, never do."""
TELLING = re.compile(r"rope|rotary|alibi|softcap|_multiplier$")
"""Any other key with such a name is refused too, unless its value is one of `PLAIN`."""
PLAIN: tuple[Any, ...] = (False, 0, 1, "", [], {})
REASONS = {
    "hidden_act": "only 'silu'",
    "use_sliding_window": "the network attends to the whole canvas",
    "is_causal": "the network attends to the whole canvas",
    "expand_token_id": "only a model of the family DreamOn changes the length of its canvas",
}

ROPE_BLOCKS = ("rope_parameters", "rope_scaling")
"""Where transformers keeps the rotation: from version 5 in the first, before in the second and in `rope_theta`."""
ROPE_NEUTRAL: dict[str, tuple[Any, ...]] = {"rope_type": ("default",), "type": ("default",)}
ROPE_UNUSED = ("rope_theta", "original_max_position_embeddings")  # without scaling, the length has no effect


def read_rope_theta(config: Mapping[str, Any]) -> Any:
    """The base of the rotation, from `rope_theta` or a block that transformers writes.

    Raises:
        ConfigError: it is missing, stated twice with different values, or the positions are scaled.
    """
    stated = {"rope_theta": config.get("rope_theta")}
    for name in ROPE_BLOCKS:
        block = config.get(name)
        if block is None:
            continue
        if not isinstance(block, dict) or any(_changes_rope(key, value) for key, value in block.items()):
            raise ConfigError(f"{name} {_shown(block)} is not supported (only rope_theta is); use a checkpoint without it")
        stated[f"{name}.rope_theta"] = block.get("rope_theta")
    given = {place: value for place, value in stated.items() if value is not None}
    if not given:
        raise ConfigError("rope_theta is missing (also from rope_parameters)")
    (first, theta), *others = given.items()
    if odd := [(place, value) for place, value in others if value != theta]:
        raise ConfigError(f"{first} is {_shown(theta)}, but {odd[0][0]} is {_shown(odd[0][1])}; remove the wrong one")
    return theta


def refuse_unsupported(config: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a key that would change what the network computes, and that nothing reads."""
    for key, value in config.items():
        if value is None or key == "rope_theta" or key in ROPE_BLOCKS:
            continue
        known = () if key == "expand_token_id" else NEUTRAL.get(key, PLAIN if TELLING.search(key) else None)
        if known is not None and not _is_one_of(value, known):
            reason = REASONS.get(key, f"only {' or '.join(map(_shown, known))}" if known else "the network does not have it")
            raise ConfigError(f"{key} {_shown(value)} is not supported: {reason}")
    layers = config.get("layer_types")
    if layers is not None and (not isinstance(layers, list) or any(kind != "full_attention" for kind in layers)):
        raise ConfigError(f"layer_types {_shown(layers)} is not supported: only 'full_attention' for every layer")


def _changes_rope(key: str, value: Any) -> bool:
    return value is not None and key not in ROPE_UNUSED and not _is_one_of(value, ROPE_NEUTRAL.get(key, (1,)))


def _is_one_of(value: Any, known: tuple[Any, ...]) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in known)  # True == 1 to Python


def _shown(value: Any) -> str:
    return json.dumps(value)[:SHOWN]
