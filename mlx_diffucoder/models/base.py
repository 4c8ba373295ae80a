"""What a model family states: its configuration."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

from ..config import is_number
from ..errors import ConfigError

LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "max_position_embeddings": 2**26,
    "rope_theta": 1e12,
    "rms_norm_eps": 1.0,
}
"""Far beyond any model: what is larger is a damaged `config.json`, and would end in MLX's arithmetic."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The Dream architecture, as a checkpoint's `config.json` states it.

    Keys that are not named here are ignored. Features that would change the model's output and
    that are not implemented (RoPE scaling, sliding-window attention, another activation) are
    refused by `from_dict`, never silently dropped.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    mask_token_id: int
    max_position_embeddings: int = 131072
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Read a `config.json` that has been parsed. Raises `ConfigError`, naming the key."""
        if (kind := config.get("model_type")) != "Dream":
            raise ConfigError(f'model_type is "{kind}", not "Dream": this program runs DiffuCoder and Dream checkpoints only')
        values = {}
        for field in fields(cls):
            value = config.get(field.name)
            if value is None:
                if field.default is MISSING:
                    raise ConfigError(f"{field.name} is missing")
                continue
            # JSON has one kind of number: 1000000 is a valid rope_theta, but 3584.5 is no size.
            fits = {int: is_number(value, int), float: is_number(value, int | float), bool: isinstance(value, bool)}
            if not fits[field.type]:  # type: ignore[index]
                raise ConfigError(f"{field.name} is {value!r}, not a value of type {field.type.__name__}")  # type: ignore[union-attr]
            values[field.name] = value
        result = cls(**values)
        result._check_shape()
        _refuse_unsupported(config)
        return result

    def _check_shape(self) -> None:
        for name, most in LARGEST.items():
            if not 0 < getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and at most {most:g}")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}")
        if self.head_dim % 2:
            raise ConfigError(f"hidden_size / num_attention_heads is {self.head_dim}; rotary positions need an even number")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide num_attention_heads {self.num_attention_heads}"
            )
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ConfigError(f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    scaling = config.get("rope_scaling") or {}
    if not isinstance(scaling, dict) or (scaling.get("rope_type") or scaling.get("type")) not in (None, "default"):
        raise ConfigError(f"rope_scaling {json.dumps(scaling)} is not supported")
    if config.get("use_sliding_window"):
        raise ConfigError("use_sliding_window is not supported: DiffuCoder attends to the whole canvas")
    if config.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"hidden_act {config['hidden_act']!r} is not supported, only 'silu'")
