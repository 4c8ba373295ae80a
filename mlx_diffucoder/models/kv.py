"""Keys and values that a caller keeps between forwards of a network.

Letters in the shapes: B rows of a batch, L tokens forwarded, S slots of the cache.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import mlx.core as mx

from .attend import attend
from .rotary import rotate


class KeyValues(Protocol):
    """A K/V cache that the caller keeps between forwards: each layer attends to what it returns.

    Each layer hands over the keys and values of the tokens being forwarded and attends to what it gets back. The
    caller decides what to keep and for how long.
    """

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take keys and values `[B, kv_heads, L, head_dim]`, already rotated; return `[B, kv_heads, S, head_dim]`."""
        ...


LayerKV = list[tuple[mx.array, mx.array]]
"""Keys and values of each layer, `[B, kv_heads, S, head_dim]`."""


class PositionedKVCache:
    """`KeyValues` with numbered slots: the tokens being forwarded overwrite the slots they are given.

    Args:
        slots: int `[B, L]`, the slot of each token.
        count: the number of slots, S.
        layers: the cache before, of S slots or fewer; empty for none.
    """

    def __init__(self, slots: mx.array, count: int, layers: LayerKV):
        self._slots, self._count, self._before = slots[:, None, :, None], count, layers
        self.layers: LayerKV = []

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        before = self._before[layer] if self._before else (keys[:, :, :0], values[:, :, :0])
        self.layers.append((self._put(before[0], keys), self._put(before[1], values)))
        return self.layers[layer]

    def _put(self, cached: mx.array, new: mx.array) -> mx.array:
        cached = mx.pad(cached, [(0, 0), (0, 0), (0, self._count - cached.shape[2]), (0, 0)])
        return mx.put_along_axis(cached, mx.broadcast_to(self._slots, new.shape), new, axis=2)


class PackedTexts:
    """Several texts one after the other in one forward: every layer computes all their tokens at once, but attention.

    Args:
        lengths: the tokens of each text; their sum is L.
        masks: as `mask` of `DiffusionModel.__call__`, for each text.
        caches: a cache for each text, or None.
    """

    def __init__(self, lengths: Sequence[int], masks: Sequence[mx.array | None], caches: Sequence[KeyValues | None]):
        self._ends, self._masks, self._caches = list(accumulate(lengths))[:-1], masks, caches

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """Each text to itself and its cache: `[1, heads, L, head_dim]`, arguments as in `attend` and `KeyValues.update`."""
        parts = zip(*(mx.split(one, self._ends, axis=2) for one in (queries, keys, values)), strict=True)
        every = zip(parts, self._masks, self._caches, strict=True)
        return mx.concatenate([attend(q, *updated(kv, layer, k, v), mask) for (q, k, v), mask, kv in every], axis=2)


Cache = KeyValues | PackedTexts | None


def updated(kv: KeyValues | None, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
    """What a layer attends to: its own keys and values, and those of a cache if there is one."""
    return (keys, values) if kv is None else kv.update(layer, keys, values)


def moved(layers: LayerKV, pieces: Sequence[Sequence[int]], size: int, base: float) -> LayerKV:
    """The K/V of a text that has pieces of another one.

    Args:
        layers: the K/V of the other one.
        pieces: where each starts and ends in the other one, and where it starts now, in ascending order.
        size: positions of the text. Those between the pieces get 0.
        base: of the rotation of keys.
    """
    found: LayerKV = []
    for keys, values in layers:
        parts: tuple[list[mx.array], list[mx.array]] = [], []
        end = 0
        for start, stop, to in (*pieces, (0, 0, size)):
            empty = mx.zeros((*keys.shape[:2], to - end, keys.shape[3]), keys.dtype)
            parts[0].extend((empty, _rotated(keys[:, :, start:stop], to - start, base)))
            parts[1].extend((empty, values[:, :, start:stop]))
            end = to + stop - start
        found.append((mx.concatenate(parts[0], axis=2), mx.concatenate(parts[1], axis=2)))
    return found


def _rotated(keys: mx.array, by: int, base: float) -> mx.array:
    """Rotated keys `[B, kv_heads, S, head_dim]`, as they would be `by` positions further to the right."""
    by_each = mx.full((keys.shape[0], keys.shape[2]), by)
    return rotate(keys.transpose(0, 2, 1, 3), by_each, base) if by and keys.size else keys
