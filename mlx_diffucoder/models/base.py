"""The description of a family of models, and the shape of a network as a `config.json` gives it.

Nothing here imports MLX: a tokenizer asks the family for its special ids before any network is built.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

from ..config import is_number
from ..errors import ConfigError
from .config_keys import read_rope_theta, refuse_unsupported
from .weight_names import HEAD

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
"""Far beyond any model. A larger value means a damaged `config.json`, and would fail inside MLX."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the network, as a checkpoint's `config.json` states it.

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

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def parameters(self) -> int:
        """The number of the network's weights."""
        width, kv = self.hidden_size, self.num_key_value_heads * self.head_dim
        layer = 2 * width * (width + kv) + width + 2 * kv + 3 * width * self.intermediate_size + 2 * width
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
        if config.get("head_dim") not in (None, result.head_dim):
            raise ConfigError(
                f"head_dim {json.dumps(config['head_dim'])} is not supported: it must be hidden_size / num_attention_heads,"
                f" which is {result.head_dim}"
            )
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


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The token ids that decoding needs.

    Attributes:
        mask: the token of a position that is not decided yet.
        pad: fills a canvas after its answer's end, and the left of shorter rows in a batch.
        ends: an answer ends at the first of these.
        chat_end, text_end: the token to end a chat's answer, or any other text, with; None where there is none.
    """

    mask: int
    pad: int
    ends: frozenset[int]
    chat_end: int | None
    text_end: int | None


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """What one family of masked-diffusion models has in common, and what differs from other families.

    To add a family, write a file with a subclass that overrides what differs, and add its instance to `FAMILIES`.

    Attributes:
        name: a short name for error messages.
        models: the published models, for error messages.
        shift: the network's output at row i - shift is the distribution of position i. 1 for networks that
            began as autoregressive models and kept their head, otherwise 0.
        attention: which tokens a token attends to; `full` (the whole canvas) is the only kind so far.
        chat_end: the token that ends an answer in a chat.
        text_ends: other tokens that end an answer, the usual one first.
        pad_token: the token after an answer's end.
        mask_token_id: the mask where `config.json` does not name it.
    """

    name: str
    models: str
    shift: int
    attention: str = "full"
    chat_end: str
    text_ends: tuple[str, ...]
    pad_token: str | None = None
    mask_token_id: int | None = None

    @abstractmethod
    def recognizes(self, config: Mapping[str, Any]) -> bool:
        """Whether a parsed `config.json` is of this family."""

    def read_config(self, config: Mapping[str, Any]) -> ModelConfig:
        """The network's shape from a parsed `config.json`. Raises `ConfigError`, naming the key."""
        return ModelConfig.from_dict({**config, "mask_token_id": self._mask(config)})

    def weight_name(self, stored: str, config: ModelConfig) -> str | None:
        """The network's name of a weight that a checkpoint calls `stored`; None for a weight that it has no use for.

        This default knows Qwen2's and Llama's names: RoPE tables and the copy of a tied head are left out.
        """
        tied_head = config.tie_word_embeddings and stored in HEAD
        return None if tied_head or stored.endswith("rotary_emb.inv_freq") else stored

    def special_ids(
        self,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        id_of: Callable[[str], int | None],
        vocab_size: int,
    ) -> SpecialIds:
        """The special ids of a checkpoint: those its files name, and those of the family's tokens.

        Args:
            config, generation: `config.json` and `generation_config.json`, parsed.
            id_of: the tokenizer's id of a token, or None.
            vocab_size: the number of the tokenizer's tokens.

        Raises:
            ConfigError: nothing names the mask.
        """
        mask = self._mask(config)
        if not isinstance(mask, int):
            raise ConfigError("mask_token_id is missing; a diffusion model needs a mask token")
        tokens = (self.chat_end, *self.text_ends)
        named = [config.get("eos_token_id"), generation.get("eos_token_id"), config.get("pad_token_id")]
        ends = frozenset(_ids([*named, *map(id_of, tokens)])) - {mask}
        pad = id_of(self.pad_token) if self.pad_token else None
        pad = config.get("pad_token_id") if pad is None else pad
        if not isinstance(pad, int) or not 0 <= pad < vocab_size:
            pad = min(ends, default=0)

        def first_end(names: Iterable[str]) -> int | None:
            return next((id for id in map(id_of, names) if id in ends), min(ends, default=None))

        return SpecialIds(mask=mask, pad=pad, ends=ends, chat_end=first_end(tokens), text_end=first_end(self.text_ends))

    def _mask(self, config: Mapping[str, Any]) -> Any:
        stated = config.get("mask_token_id")
        return self.mask_token_id if stated is None else stated


def _ids(values: Iterable[Any]) -> set[int]:
    """Ids from values that may be an id, a list of ids, or None."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    return {id for ids in lists for id in ids if isinstance(id, int) and 0 <= id < 2**31}
