"""DreamOn: Dream, with two tokens by which the model changes the length of a hole.

Its `config.json` differs from Dream's by `expand_token_id`, the id of the token `<|expand|>`. The token that deletes a
position is `eos_token_id`.

Source: DreamOn (arXiv 2602.01326).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config import is_number
from ..errors import ConfigError
from .base import NO_TOKENS, Family, ModelConfig, SizeIds, SpecialIds, ids_of

EXPAND, DELETE, BEGIN = "expand_token_id", "eos_token_id", "bos_token_id"


@dataclass(frozen=True, kw_only=True)
class _DreamOn(Family):
    own_keys: frozenset[str] = frozenset({EXPAND})

    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        return config.get("model_type") == "Dream" and (config.get(EXPAND) is not None or "<|expand|>" in added)

    def read_config(self, config: Mapping[str, Any], added: Mapping[str, int] = NO_TOKENS) -> ModelConfig:
        read = super().read_config(config, added)
        ids = {name: config.get(name) for name in (EXPAND, DELETE)}
        for name, id in ids.items():
            if id is None:
                raise ConfigError(f"{name} is missing; {self.name} changes the length of a hole with it")
            if not is_number(id, int) or not 0 <= id < read.vocab_size:
                raise ConfigError(f"{name} {id!r} is not an id of the vocabulary of {read.vocab_size}")
        if any(id >= read.vocab_size for id in ids_of(config, BEGIN)):
            raise ConfigError(f"{BEGIN} {config[BEGIN]!r} is not an id of the vocabulary of {read.vocab_size}")
        if len({*ids.values(), read.mask_token_id}) < 3:
            raise ConfigError(f"{EXPAND} {ids[EXPAND]}, {DELETE} and mask_token_id must be three ids")
        return read

    def special_ids(
        self,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        id_of: Callable[[str], int | None],
        vocab_size: int,
        eos_token: str | None = None,
    ) -> SpecialIds:
        special = super().special_ids(config, generation, id_of, vocab_size, eos_token)
        sizes = SizeIds(config[EXPAND], config[DELETE], ids_of(config, BEGIN)[:1])
        return replace(special, sizes=sizes)


DREAMON = _DreamOn(
    name="DreamOn",
    models="DreamOn-7B",
    shift=1,
    chat_end="<|im_end|>",
    text_ends=("<|endoftext|>", "<|dlm_pad|>"),
    pad_token="<|dlm_pad|>",
    rule="schedule",
    window="whole",
)
