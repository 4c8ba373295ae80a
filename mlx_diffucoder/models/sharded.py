"""A network divided among processes (tensor parallelism): each holds a part of every matrix.

Queries, keys, values, gate and up projections, embeddings and head are divided by rows; what comes out of attention and MLP by
columns, and summed. So each rank has some of the heads, with their K/V. Rank 0 decodes: for each call of its network it
sends the others the call's arguments, and they make the same call. Nobody else decides anything, so ranks cannot diverge.

Source: Megatron-LM (arXiv 1909.08053).
"""

import weakref
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..arrays import from_numpy
from ..errors import ConfigError
from ..link import Link
from .base import Family, ModelConfig
from .rotary import Positions
from .transformer import Backbone, Cache, DiffusionModel, PackedTexts, PositionedKVCache

BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")
BY_COLUMNS = ("o_proj", "down_proj")


def axis_of(name: str) -> int | None:
    """The axis along which a weight is divided, by its name; None for one that every rank has."""
    module = name.split(".")[-2]
    return 0 if module in BY_ROWS else 1 if module in BY_COLUMNS else None


def part_config(config: ModelConfig, size: int) -> ModelConfig:
    """The shape of one of `size` equal parts. Raises `ConfigError` where a network cannot be divided so."""
    for name in ("num_key_value_heads", "vocab_size", "intermediate_size"):
        if (count := getattr(config, name)) % size:
            able = [str(each) for each in range(2, count + 1) if not any(getattr(config, one) % each for one in DIVIDED)]
            advice = f"start {' or '.join(able[:3])} of them" if able else "this model cannot be divided"
            raise ConfigError(f"--shard tensor: {size} processes do not divide {name} {count}; {advice}", field="--shard")
    return replace(config, **{name: getattr(config, name) // size for name in DIVIDED})


DIVIDED = ("num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size")


class _Summed(nn.Module):
    """A projection divided by columns: each rank's product, summed."""

    def __init__(self, part: nn.Module, group: Any):
        super().__init__()
        self.part, self.group = part, group

    def __call__(self, x: mx.array) -> mx.array:
        return mx.distributed.all_sum(self.part(x), group=self.group)


class _Embedding(nn.Module):
    """Embeddings divided by ids: an id's row comes from the rank that has it."""

    def __init__(self, part: nn.Module, rows: int, group: Any):
        super().__init__()
        self.part, self.group, self._rows = part, group, rows

    def __call__(self, tokens: mx.array) -> mx.array:
        at = tokens - self.group.rank() * self._rows
        own = (at >= 0) & (at < self._rows)
        found = self.part(mx.where(own, at, 0))
        return mx.distributed.all_sum(mx.where(own[..., None], found, mx.array(0, found.dtype)), group=self.group)

    def as_linear(self, x: mx.array) -> mx.array:
        return _gathered(self.part.as_linear(x), self.group)


class _Head(nn.Module):
    """A head divided by ids: logits of all ranks, `[B, R, V]`."""

    def __init__(self, part: nn.Module, group: Any):
        super().__init__()
        self.part, self.group = part, group

    def __call__(self, x: mx.array) -> mx.array:
        return _gathered(self.part(x), self.group)


def _gathered(part: mx.array, group: Any) -> mx.array:
    parts = mx.distributed.all_gather(part[None], group=group)  # [N, B, R, V / N]
    return parts.transpose(1, 2, 0, 3).reshape(*part.shape[:2], -1)


class SharedModel(DiffusionModel):
    """This rank's part of a network. It computes what the whole network does; only rank 0 may be called.

    Args:
        config: of the whole network; attribute `config` is the same.
        family: as in `DiffusionModel`.
        link: to the other ranks.
    """

    def __init__(self, config: ModelConfig, family: Family, link: Link):
        part = part_config(config, link.size)
        super().__init__(part, family)
        self.model = _Backbone(part, link)
        self.config, self.link, self.moves_kv = config, link, False  # each rank has those of its heads

    def connect(self) -> None:
        """Let the parts compute together, once the weights are in their places."""
        group, model = self.link.group, self.model
        for layer in model.layers:
            for module, name in ((layer.self_attn, "o_proj"), (layer.mlp, "down_proj")):
                setattr(module, name, _Summed(getattr(module, name), group))
        rows = self.config.vocab_size // self.link.size
        model.update_modules({"embed_tokens": _Embedding(model.embed_tokens, rows, group)})
        if not self.config.tie_word_embeddings:
            self.update_modules({"lm_head": _Head(self.lm_head, group)})

    def cast(self, dtype: mx.Dtype) -> None:
        """Compute in another type: as `set_dtype`, but of no two weights both types are in memory at once."""
        weights: Any = tree_flatten(self.parameters())
        while weights:
            name, weight = weights.pop()
            if mx.issubdtype(weight.dtype, mx.floating):
                weight = weight.astype(dtype)
                mx.eval(weight)
                self.load_weights([(name, weight)], strict=False)

    def logits(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        """As `DiffusionModel.logits`. The hidden states of rank 0 count: its decoder has chosen among them."""
        if rows is not None:
            hidden = mx.take_along_axis(hidden, rows[..., None], axis=1)
        if self.link.leads:
            self.link.send(["logits", hidden.shape, _name(hidden.dtype)])
        else:
            hidden = mx.zeros_like(hidden)
        logits = super().logits(mx.distributed.all_sum(hidden, group=self.link.group))
        mx.async_eval(logits)  # in the order of the calls, as every other rank
        return logits


class _Backbone(Backbone):
    def __init__(self, config: ModelConfig, link: Link):
        super().__init__(config)
        self._link, self.numbers = link, Numbers(keep=not link.leads)

    def __call__(
        self, tokens: mx.array, positions: Positions, mask: mx.array | None, kv: Cache, rows: mx.array | None = None
    ) -> mx.array:
        if self._link.leads:
            arrays: list[bytes] = []
            call = [_packed(one, self.numbers, arrays) for one in (tokens, positions, mask, kv, rows)]
            self._link.send(["forward", call, self.numbers.dropped()], b"".join(arrays))
        hidden = super().__call__(tokens, positions, mask, kv, rows)
        mx.async_eval(hidden)  # in the order of the calls, as every other rank
        self.numbers.give(kv)
        return hidden


class Numbers:
    """Numbers for arrays that each rank has a part of: keys and values. They are equal on all ranks.

    Args:
        keep: hold the arrays, until rank 0 says that it has dropped them.
    """

    def __init__(self, *, keep: bool):
        self._keep, self._next, self._dropped = keep, 0, list[int]()
        self._number: dict[int, int] = {}  # by the identity of an array
        self._held: dict[int, Any] = {}  # by number: the array, or a weak reference

    def give(self, cache: Cache) -> None:
        """Number what a cache has now, in the order of its attributes."""
        for array in _floats(cache):
            if id(array) not in self._number:
                self._number[id(array)] = self._next
                self._held[self._next] = array if self._keep else weakref.ref(array, self._forgetting(id(array)))
                self._next += 1

    def _forgetting(self, identity: int) -> Any:
        def forget(_: Any) -> None:
            number = self._number.pop(identity)
            del self._held[number]
            self._dropped.append(number)

        return forget

    def of(self, array: mx.array) -> int | None:
        """The number of an array."""
        return self._number.get(id(array))

    def array(self, number: int) -> mx.array:
        """The array of a number, on a rank that keeps them."""
        return self._held[number]

    def dropped(self) -> list[int]:
        """The numbers whose arrays rank 0 has dropped since the last call."""
        found, self._dropped = self._dropped, []
        return found

    def drop(self, numbers: Collection[int]) -> None:
        """Let go of arrays, on a rank that keeps them."""
        for number in numbers:
            del self._number[id(self._held.pop(number))]


def _floats(value: Any) -> Iterator[mx.array]:
    if isinstance(value, mx.array):
        if mx.issubdtype(value.dtype, mx.floating) and value.size:
            yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _floats(one)
    elif hasattr(value, "__dict__"):
        for one in vars(value).values():
            yield from _floats(one)


def _packed(value: Any, numbers: Numbers, arrays: list[bytes]) -> Any:
    """A call's argument, ready for JSON; `arrays` gets the bytes of arrays that other ranks do not have."""
    if isinstance(value, mx.array):
        if (number := numbers.of(value)) is not None:
            return {"number": number}
        if value.size and mx.issubdtype(value.dtype, mx.floating):
            raise ConfigError("--shard tensor: K/V that were moved cannot be used; choose another window", field="--shard")
        arrays.append(np.array(value).tobytes())
        return {"array": [_name(value.dtype), value.shape]}
    if isinstance(value, list | tuple):
        return [_packed(one, numbers, arrays) for one in value]
    if hasattr(value, "__dict__"):
        return {"object": [type(value).__name__, {name: _packed(one, numbers, arrays) for name, one in vars(value).items()}]}
    return value


class _Unpacker:
    """The opposite of `_packed`, on another rank."""

    def __init__(self, numbers: Numbers, arrays: bytes, kinds: dict[str, type]):
        self._numbers, self._arrays, self._kinds, self._at = numbers, arrays, kinds, 0

    def __call__(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "number" in value:
            return self._numbers.array(value["number"])
        if "array" in value:
            name, shape = value["array"]
            kind = np.dtype(name.rstrip("_"))
            count = int(np.prod(shape))
            found = np.frombuffer(self._arrays, kind, count, self._at)
            self._at += count * kind.itemsize
            return from_numpy(found.reshape(shape))
        name, state = value["object"]
        made: Any = object.__new__(self._kinds[name])
        vars(made).update({key: self(one) for key, one in state.items()})
        return made


def _name(kind: mx.Dtype) -> str:
    return str(kind).rpartition(".")[2]


def follow(model: SharedModel, caches: Collection[type]) -> None:
    """Make the calls that rank 0 makes, until its process ends: this one then ends too.

    Args:
        caches: the kinds of `KeyValues` that a call may have, next to `PositionedKVCache`.
    """
    kinds = {one.__name__: one for one in (*caches, PositionedKVCache, PackedTexts)}
    while True:
        (what, *order), arrays = model.link.receive()
        if what == "logits":
            mx.eval(model.logits(mx.zeros(order[0], getattr(mx, order[1]))))
        elif what == "forward":
            numbers = model.model.numbers
            numbers.drop(order[1])
            mx.eval(model.model(*map(_Unpacker(numbers, arrays, kinds), order[0])))
        elif what == "dtype":
            model.cast(getattr(mx, order[0]))
