"""The description of a family of models: what its members share, and what differs from other families.

Nothing here imports MLX: a tokenizer asks the family for its special ids before any network is built.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from ..config import PRESETS, is_number
from ..errors import ConfigError
from .model_config import LARGEST
from .model_config import ModelConfig as ModelConfig
from .weight_names import HEAD

NO_TOKENS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class SizeIds:
    """The token ids by which a model changes the length of a hole.

    Attributes:
        expand: becomes two masks.
        delete: leaves the canvas.
        begin: what a text with holes begins with.
    """

    expand: int
    delete: int
    begin: list[int]


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The token ids that decoding needs.

    Attributes:
        mask: the token of a position that is not decided yet.
        pad: fills a canvas after its answer's end, and the left of shorter rows in a batch.
        ends: an answer ends at the first of these.
        chat_end, text_end: the token to end a chat's answer, or any other text, with; None where there is none.
        sizes: of a model that changes the canvas's length; None for all others.
    """

    mask: int
    pad: int
    ends: frozenset[int]
    chat_end: int | None
    text_end: int | None
    sizes: SizeIds | None = None


class Publication(NamedTuple):
    """What the publisher of a model states.

    Attributes:
        name: occurs in the model's name; None for any model of the family.
        settings: fields of `GenerationConfig` that differ from their defaults.
    """

    name: str | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """What one family of masked-diffusion models has in common, and what differs from other families.

    To add a family, write a file with a subclass that overrides what differs, and add its instance to `FAMILIES`.

    Attributes:
        name: a short name for error messages.
        models: the published models, for error messages.
        shift: the network's output at row i - shift is the distribution of position i. 1 for networks that
            began as autoregressive models and kept their head, otherwise 0.
        attention: which tokens a token attends to: `full`, the whole canvas; or `block-causal`, its own block and
            those before it.
        block_length: for `block-causal`, the positions in a block where `config.json` does not say.
        qkv_bias, qk_norm: as in `ModelConfig`.
        states_head_dim: whether `config.json` must state `head_dim`, which need not be hidden_size / num_attention_heads.
        chat_end: the token that ends an answer in a chat.
        text_ends: other tokens that end an answer, the usual one first.
        pad_token: the token after an answer's end.
        mask_token_id, mask_token: the mask, and its name in the tokenizer, where `config.json` does not say.
        tying: keys of `config.json` by which a checkpoint may say whether its head is its embeddings, the first one that is
            there counts.
        own_keys: keys of `config.json` that only this family reads; other families refuse them.
        rule, window, alg: how to decode where the user does not say; the first two are its preset `balanced`. The tree of
            guesses needs a shift of 1. Without one the default is `threshold:tau=0.9` on `sliding`, which verifies no
            guesses: on the bundled model it takes 0.403 tiles of 32 rows a useful token where the tree takes 0.196, and 88.0 %
            of its answers pass where 91.5 % of the tree's do (docs/results/decoding.md).
        publications: what the publishers of the family's models state, the last for any other model.
        cannot: what these models cannot do (`infill`, or `window NAME`), each with the reason, which ends an
            error's line.
        middle: for models that cannot see the text after a hole, the tokens for filling in the middle, by what each stands
            before: `prefix`, `suffix` and `middle`, in the order of a prompt. A tokenizer need not have them.
    """

    name: str
    models: str
    shift: int
    attention: str = "full"
    block_length: int = 0
    qkv_bias: bool = True
    qk_norm: bool = False
    states_head_dim: bool = False
    chat_end: str
    text_ends: tuple[str, ...]
    pad_token: str | None = None
    mask_token_id: int | None = None
    mask_token: str | None = None
    tying: tuple[str, ...] = ("tie_word_embeddings",)
    own_keys: frozenset[str] = frozenset()
    rule: str = PRESETS["balanced"]["rule"]
    window: str = PRESETS["balanced"]["window"]
    alg: str = "entropy"
    publications: tuple[Publication, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    middle: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.shift and self.window.startswith("tree"):
            object.__setattr__(self, "rule", "threshold:tau=0.9")
            object.__setattr__(self, "window", "sliding:width=24,suffix=4")

    @abstractmethod
    def recognizes(self, config: Mapping[str, Any], added: Mapping[str, int]) -> bool:
        """Whether a checkpoint is of this family, by its parsed `config.json` and the ids of its tokenizer's added tokens.

        An autoregressive model has the same `model_type` as some of these, so that alone is never enough: see `names_in`.
        """

    def read_config(self, config: Mapping[str, Any], added: Mapping[str, int] = NO_TOKENS) -> ModelConfig:
        """The network's shape from a parsed `config.json`; `added` as in `recognizes`.

        Raises:
            ConfigError: a key is missing or cannot work; the message begins with its name.
        """
        mask, head_dim = self._mask(config, added.get), config.get("head_dim")
        if mask is None:
            raise ConfigError(f"mask_token_id is missing{f', and so is the token {self.mask_token}' if self.mask_token else ''}")
        if self.states_head_dim and head_dim is None:
            raise ConfigError("head_dim is missing")
        if head_dim == 0:  # from here on it is the same as none
            raise ConfigError("head_dim is 0; it must be above 0")
        if not self.qkv_bias and config.get("attention_bias"):
            raise ConfigError(
                f"attention_bias {json.dumps(config['attention_bias'])} is not supported: {self.name} has no biases"
            )
        own = {"mask_token_id": mask, "qkv_bias": self.qkv_bias, "qk_norm": self.qk_norm, "block_length": self.block_length}
        own |= {"head_dim": head_dim if self.states_head_dim else None, **dict.fromkeys(self.own_keys)}
        read = ModelConfig.from_dict({**config, **own})
        if head_dim not in (None, read.head_dim):
            raise ConfigError(
                f"head_dim {json.dumps(head_dim)} is not supported: it must be hidden_size / num_attention_heads,"
                f" which is {read.head_dim}"
            )
        return read

    def tied(self, config: Mapping[str, Any]) -> Any:
        """What a parsed `config.json` says about the head: whether it is the embeddings, or None."""
        return next((config[key] for key in self.tying if config.get(key) is not None), None)

    def weight_name(self, stored: str, config: ModelConfig) -> str | None:
        """The network's name of a weight that a checkpoint calls `stored`; None for a weight that it has no use for.

        The network's own names must stay as they are, because converted checkpoints have them. This default knows Qwen2's
        and Llama's names: RoPE tables and the copy of a tied head are left out.
        """
        tied_head = config.tie_word_embeddings and stored in HEAD
        return None if tied_head or stored.endswith("rotary_emb.inv_freq") else stored

    def special_ids(
        self,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        id_of: Callable[[str], int | None],
        vocab_size: int,
        eos_token: str | None = None,
    ) -> SpecialIds:
        """The special ids of a checkpoint: those its files name, and those of the family's tokens.

        Args:
            config, generation: `config.json` and `generation_config.json`, parsed.
            id_of: the tokenizer's id of a token, or None.
            vocab_size: the number of the tokenizer's tokens.
            eos_token: the token that the tokenizer's settings name as the end of a text.

        Raises:
            ConfigError: nothing names the mask, or two things name different ones; or an id is no id.
        """
        mask = self._mask(config, id_of)
        if not isinstance(mask, int):
            raise ConfigError("mask_token_id is missing; a diffusion model needs a mask token")
        tokens = (self.chat_end, *self.text_ends)
        named = [*ids_of(config, "eos_token_id"), *ids_of(generation, "eos_token_id"), *ids_of(config, "pad_token_id")]
        found = (id for id in map(id_of, (*tokens, eos_token or self.chat_end)) if id is not None)
        ends = frozenset({*named, *found} - {mask})
        pad = id_of(self.pad_token) if self.pad_token else None
        pad = config.get("pad_token_id") if pad is None else pad
        if not isinstance(pad, int) or not 0 <= pad < vocab_size:
            pad = min(ends, default=0)

        def first_end(names: Iterable[str]) -> int | None:
            return next((id for id in map(id_of, names) if id in ends), min(ends, default=None))

        return SpecialIds(mask=mask, pad=pad, ends=ends, chat_end=first_end(tokens), text_end=first_end(self.text_ends))

    def published(self, name: str) -> Mapping[str, Any]:
        """The settings that the publisher of a model states, as fields of `GenerationConfig`; empty where nobody does.

        Args:
            name: its Hub id, `_name_or_path` or folder. Models of a family may have equal configurations, so the name tells
                them apart, with any spelling of case and punctuation.
        """
        plain = _letters(name)
        found = (one.settings for one in self.publications if one.name is None or _letters(one.name) in plain)
        return MappingProxyType(dict(next(found, NO_TOKENS)))  # MLX takes a dict for a module's submodules

    def refuse(self, what: str) -> None:
        """Raise `ConfigError` where these models cannot do `what`, a key of `cannot`."""
        if what in self.cannot:
            option = "window" if what.startswith("window") else None
            raise ConfigError(f"{self.name} models cannot do {what}: {self.cannot[what]}", field=option)

    def _mask(self, config: Mapping[str, Any], id_of: Callable[[str], int | None]) -> Any:
        named = id_of(self.mask_token) if self.mask_token else None
        stated = config.get("mask_token_id")
        if None not in (stated, named) and stated != named:
            raise ConfigError(f"mask_token_id is {json.dumps(stated)}, but the token {self.mask_token} is {named}")
        return next((mask for mask in (stated, self.mask_token_id, named) if mask is not None), None)


def names_in(config: Mapping[str, Any]) -> set[str]:
    """The classes that a `config.json` names in `architectures` and `auto_map`, and the modules that these are in."""
    mapped = config.get("auto_map")
    given = [config.get("architectures"), *(mapped.values() if isinstance(mapped, dict) else [])]
    names = (name for one in given for name in (one if isinstance(one, list) else [one]) if isinstance(name, str))
    return {part for name in names for part in name.rpartition("--")[2].split(".")}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def ids_of(config: Mapping[str, Any], key: str) -> list[int]:
    """The ids that a key of a parsed file gives: one, a list of them, or none. -1 stands for none.

    Raises:
        ConfigError: a value is no id.
    """
    value = config.get(key)
    ids = value if isinstance(value, list) else [value]
    if not all(id is None or (is_number(id, int) and -1 <= id < LARGEST["vocab_size"]) for id in ids):
        raise ConfigError(f"{key} is {json.dumps(value)}, which is no token id")
    return [id for id in ids if id is not None and id >= 0]
