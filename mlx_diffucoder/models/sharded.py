"""A network that several processes compute: each has a part of every matrix, or forwards a part of the rows.

Tensor parallel: queries, keys, values, gate and up projections, embeddings and head are divided by rows; what comes out of
attention and MLP by columns, and summed. So each rank has some of the heads, with their K/V. Sequence parallel: each rank has
all weights and forwards some of the rows; the fresh K/V of each layer are gathered, so that all ranks have those of all rows.

Rank 0 decodes: for each call of its network it sends the others the call's arguments, and they make the same call. Nobody else
decides anything, so ranks cannot diverge.

Source: Megatron-LM (arXiv 1909.08053); for rows the context parallelism of Llama 3 (arXiv 2407.21783).
"""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..choices import TILE
from ..errors import ConfigError
from ..link import Link
from .base import ModelConfig
from .kv import Cache, LayerKV, PackedTexts, PositionedKVCache
from .orders import Numbers, Unpacker, name_of, packed
from .rotary import Positions, of_rows
from .rows import GatheringKV, GatheringTexts, OwnRows, gathered, of_queries
from .transformer import Backbone, DiffusionModel

BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")
BY_COLUMNS = ("o_proj", "down_proj")
DIVIDED = ("num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size")


def axis_of(name: str) -> int | None:
    """The axis along which a weight is divided, by its name, an adapter's too; None for one that every rank has."""
    *_, module, leaf = name.replace(".linear.", ".").split(".")
    if leaf in ("lora_a", "lora_b"):  # [in, r] and [r, out]
        return {"lora_a": 0 if module in BY_COLUMNS else None, "lora_b": 1 if module in BY_ROWS else None}[leaf]
    return 0 if module in BY_ROWS else 1 if module in BY_COLUMNS else None


def check_divides(config: ModelConfig, size: int) -> None:
    """Raise `ConfigError` where a network cannot be divided into `size` equal parts."""
    for name in ("num_key_value_heads", "vocab_size", "intermediate_size"):
        if (count := getattr(config, name)) % size:
            able = [str(each) for each in range(2, count + 1) if not any(getattr(config, one) % each for one in DIVIDED)]
            advice = (f"start {' or '.join(able[:3])} of them, or " if able else "") + "use --shard sequence"
            raise ConfigError(
                f"--shard tensor: {size} processes do not divide {name} {count}; {advice}",
                field="--shard",
            )


class _Joined(nn.Module):
    """A projection of which each rank has a part, and what makes the whole of their products."""

    def __init__(self, part: nn.Module, join: Callable[[mx.array], mx.array]):
        super().__init__()
        self.part, self._join = part, join

    def __call__(self, x: mx.array) -> mx.array:
        return self._join(self.part(x))


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
        return gathered(self.part.as_linear(x), self.group, -1)


class SharedModel(DiffusionModel):
    """This rank's part of a network. It computes what the whole network does; only rank 0 may be called.

    Attributes:
        link: to the other ranks.
        dtype: that the weights were cast to; None for those of the files.
    """

    link: Link
    dtype: mx.Dtype | None = None

    def cast(self, dtype: mx.Dtype) -> None:
        """Compute in another type: as `set_dtype`, but of no two weights both types are in memory at once."""
        self.dtype = dtype
        weights: Any = tree_flatten(self.parameters())
        while weights:
            name, weight = weights.pop()
            if mx.issubdtype(weight.dtype, mx.floating):
                weight = weight.astype(dtype)
                mx.eval(weight)
                self.load_weights([(name, weight)], strict=False)

    def moved(self, layers: LayerKV, pieces: Sequence[Sequence[int]], size: int) -> LayerKV:
        """As `DiffusionModel.moved`, on all ranks."""
        numbers = self.model.numbers
        if self.link.leads:
            self.link.send(["moved", packed(layers, numbers, []), pieces, size])
        found = super().moved(layers, pieces, size)
        numbers.give(found)
        return found

    def exchange_seconds(self, rows: int, count: int = 50) -> float:
        """The median seconds of what the ranks exchange in a layer of a forward of `rows` rows: for tensor a half of it."""
        if self.link.leads:
            self.link.send(["exchange", rows, count])
        times = []
        for _ in range(count + 1):  # the first one may wait for the others
            start = time.perf_counter()
            mx.eval(self._exchange(rows))
            times.append(time.perf_counter() - start)
        return median(times[1:])

    def _exchange(self, rows: int) -> Any:
        own, config = OwnRows(rows, self.link), self.config
        kv = mx.zeros((1, config.num_key_value_heads, len(own.rows), config.head_dim), self.model.norm.weight.dtype)
        return own.all_kv(kv, kv)


class _DividedModel(SharedModel):
    """With a part of every matrix."""

    def _exchange(self, rows: int) -> Any:
        states = mx.zeros((rows, self.config.hidden_size), self.model.norm.weight.dtype)
        return mx.distributed.all_sum(states, group=self.link.group)

    def logits(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        """As `DiffusionModel.logits`. The hidden states of rank 0 count: its decoder has chosen among them."""
        if rows is not None:
            hidden = mx.take_along_axis(hidden, rows[..., None], axis=1)
        if self.link.leads:
            self.link.send(["logits", hidden.shape, name_of(hidden.dtype)])
        else:
            hidden = mx.zeros_like(hidden)
        logits = super().logits(mx.distributed.all_sum(hidden, group=self.link.group))
        mx.async_eval(logits)  # in the order of the calls, as every other rank
        return logits


class _SharedBackbone(Backbone):
    link: Link
    numbers: Numbers

    def __call__(
        self, tokens: mx.array, positions: Positions, mask: mx.array | None, kv: Cache, rows: mx.array | None = None
    ) -> mx.array:
        if self.link.leads:
            arrays: list[bytes] = []
            call = [packed(one, self.numbers, arrays) for one in (tokens, positions, mask, kv, rows)]
            self.link.send(["forward", call, self.numbers.dropped()], b"".join(arrays))
        hidden = self._computed(tokens, positions, mask, kv, rows)
        mx.async_eval(hidden)  # in the order of the calls, as every other rank
        self.numbers.give(kv)
        return hidden

    def _computed(
        self, tokens: mx.array, positions: Positions, mask: mx.array | None, kv: Cache, rows: mx.array | None
    ) -> mx.array:
        return super().__call__(tokens, positions, mask, kv, rows)


class _RowsBackbone(_SharedBackbone):
    """With all weights, for a part of the rows. A forward of one tile is computed whole by every rank, without exchanges."""

    def _computed(
        self, tokens: mx.array, positions: Positions, mask: mx.array | None, kv: Cache, rows: mx.array | None
    ) -> mx.array:
        if tokens.size <= TILE:
            return super()._computed(tokens, positions, mask, kv, rows)
        texts, count = tokens.shape
        own = OwnRows(count, self.link)
        at: Any = of_rows(positions, own.index)
        at = mx.broadcast_to(at, (texts, own.index.size))
        gathering = GatheringTexts(own, kv) if isinstance(kv, PackedTexts) else GatheringKV(own, kv)
        hidden = super()._computed(tokens[:, own.index], at, of_queries(mask, own.index), gathering, None)
        hidden = own.gathered(hidden, axis=1)
        return hidden if rows is None else hidden[:, rows]


def share(model: Any, link: Link, shard: str) -> SharedModel:
    """Make a network, whose weights are this rank's part in their places, compute with the other ranks. It is changed.

    Args:
        shard: `tensor` or `sequence`.
    """
    divided, backbone, group = shard == "tensor", model.model, link.group
    model.__class__ = _DividedModel if divided else SharedModel
    # A gated adapter's backbone stays one.
    backbone.__class__ = type("Shared", (_SharedBackbone if divided else _RowsBackbone, backbone.__class__), {})
    model.link = backbone.link = link
    backbone.numbers = Numbers(keep=not link.leads)
    if divided:
        summed = partial(mx.distributed.all_sum, group=group)
        for layer in backbone.layers:
            layer.self_attn.heads //= link.size
            layer.self_attn.kv_heads //= link.size
            layer.self_attn.o_proj = _Joined(layer.self_attn.o_proj, summed)
            layer.mlp.down_proj = _Joined(layer.mlp.down_proj, summed)
        backbone.embed_tokens = _Embedding(backbone.embed_tokens, model.config.vocab_size // link.size, group)
        if not model.config.tie_word_embeddings:
            model.lm_head = _Joined(model.lm_head, partial(gathered, group=group, axis=-1))
    return model


def follow(model: SharedModel, caches: Collection[type]) -> None:
    """Make the calls that rank 0 makes, until its process ends: this one then ends too.

    Args:
        caches: the kinds of `KeyValues` that a call may have, next to `PositionedKVCache`.
    """
    kinds = {one.__name__: one for one in (*caches, PositionedKVCache, PackedTexts)}
    numbers = model.model.numbers
    while True:
        (what, *order), arrays = model.link.receive()
        if what == "logits":
            mx.eval(model.logits(mx.zeros(order[0], getattr(mx, order[1]))))
        elif what == "forward":
            numbers.drop(order[1])
            mx.eval(model.model(*map(Unpacker(numbers, arrays, kinds), order[0])))
        elif what == "moved":
            mx.eval(model.moved(Unpacker(numbers, arrays, kinds)(order[0]), *order[1:]))
        elif what == "exchange":
            model.exchange_seconds(*order)
        elif what == "dtype":
            model.cast(getattr(mx, order[0]))
