"""The shape of a network, as a `config.json` gives it."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

from ..config import is_number
from ..errors import ConfigError
from .config_keys import read_rope_theta, refuse_unsupported

LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**12,
    "max_position_embeddings": 2**26,
    "rope_theta": 1e12,
    "rms_norm_eps": 1.0,
}
"""Far beyond any model. A larger value means a damaged `config.json`, and would fail inside MLX."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the network: what a checkpoint's `config.json` states, and what its family adds.

    Attributes:
        head_dim: the width of one attention head; hidden_size / num_attention_heads where nothing states it.
        qkv_bias: whether the projections of queries, keys and values have biases.
        qk_norm: whether each head's queries and keys go through an RMS norm before they are rotated.
        block_length: positions in a block, counted from position 0, where a block attends to itself and to those
            before it; 0 where every token attends to every other.

    Features that change the model's output and are not implemented (RoPE scaling, sliding-window attention, other
    activations) are refused, never dropped in silence. Other keys that are not named here are ignored.
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
    head_dim: int = 0
    qkv_bias: bool = True
    qk_norm: bool = False
    block_length: int = 0

    def __post_init__(self) -> None:
        if not self.head_dim and self.num_attention_heads > 0:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)

    @property
    def parameters(self) -> int:
        """The number of the network's weights."""
        width, q, kv = self.hidden_size, self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        layer = 2 * width * (q + kv) + 3 * width * self.intermediate_size + 2 * width
        layer += (q + 2 * kv if self.qkv_bias else 0) + (2 * self.head_dim if self.qk_norm else 0)
        return self.num_hidden_layers * layer + width + self.vocab_size * width * (1 if self.tie_word_embeddings else 2)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Read the keys of a parsed `config.json`, whatever its family.

        Raises:
            ConfigError: a key is missing or cannot work; the message begins with its name.
        """
        config = {**config, "rope_theta": read_rope_theta(config)}
        refuse_unsupported(config)
        values = {}
        for one in fields(cls):
            value = config.get(one.name)
            if value is None:
                if one.default is MISSING:
                    raise ConfigError(f"{one.name} is missing")
                continue
            # JSON has one kind of number: 1000000 is a valid rope_theta, but 3584.5 is no size.
            fits = {int: is_number(value, int), float: is_number(value, int | float), bool: isinstance(value, bool)}
            if not fits[one.type]:  # type: ignore[index]
                raise ConfigError(f"{one.name} is {value!r}, not a value of type {one.type.__name__}")  # type: ignore[union-attr]
            values[one.name] = value
        result = cls(**values)
        result._check_shape(derived=not values.get("head_dim"))
        return result

    def _check_shape(self, derived: bool) -> None:
        if derived and self.num_attention_heads > 0 and self.hidden_size > 0 and self.hidden_size % self.num_attention_heads:
            raise ConfigError(f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}")
        for name, most in LARGEST.items():
            if not 0 < getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and at most {most:g}")
        if self.head_dim % 2:
            name = "hidden_size / num_attention_heads" if derived else "head_dim"
            raise ConfigError(f"{name} is {self.head_dim}; rotary positions need an even number")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide num_attention_heads {self.num_attention_heads}"
            )
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ConfigError(f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
