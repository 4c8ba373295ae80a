"""The rows of a forward that one of several processes computes, with the keys and values of all rows."""

from typing import Any

import mlx.core as mx

from ..link import Link
from .attend import attend
from .kv import KeyValues, PackedTexts, updated


def gathered(part: mx.array, group: Any, axis: int) -> mx.array:
    """The parts of all ranks, one after the other."""
    return mx.concatenate(list(mx.distributed.all_gather(part[None], group=group)), axis=axis)


class OwnRows:
    """The rows of a forward that this rank computes, as many as every other: the last row of all is repeated to fill up.

    Args:
        count: the rows of the forward.
    """

    def __init__(self, count: int, link: Link):
        each = -(-count // link.size)
        self.rows = [min(link.launch.rank * each + row, count - 1) for row in range(each)]
        self.index, self._count, self._group = mx.array(self.rows), count, link.group

    def gathered(self, part: mx.array, axis: int) -> mx.array:
        """The whole of what each rank has for its rows along an axis."""
        whole = gathered(part, self._group, axis)
        return mx.split(whole, [self._count], axis=axis)[0]

    def all_kv(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The keys and values `[B, kv_heads, L, head_dim]` of all rows, in one exchange."""
        keys, values = self.gathered(mx.stack([keys, values]), axis=3)
        return keys, values


class GatheringKV:
    """`KeyValues` that a rank's rows attend to: those of all ranks' rows, in the cache of the caller."""

    def __init__(self, own: OwnRows, kv: KeyValues | None):
        self._own, self._kv = own, kv

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return updated(self._kv, layer, *self._own.all_kv(keys, values))


class GatheringTexts(PackedTexts):
    """The same for several texts."""

    def __init__(self, own: OwnRows, kv: PackedTexts):
        vars(self).update(vars(kv), own=own)

    own: OwnRows

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        keys, values = self.own.all_kv(keys, values)
        parts = zip(*(mx.split(one, self._ends, axis=2) for one in (keys, values)), strict=True)
        starts, at, found = [0, *self._ends], 0, []
        for start, (own_keys, own_values), mask, cache in zip(starts, parts, self._masks, self._caches, strict=True):
            kv = updated(cache, layer, own_keys, own_values)
            if mine := [row - start for row in self.own.rows if start <= row < start + own_keys.shape[2]]:
                asking = queries[:, :, at : at + len(mine)]
                found.append(attend(asking, *kv, of_queries(mask, mx.array(mine))))
                at += len(mine)
        return mx.concatenate(found, axis=2)


def of_queries(mask: mx.array | None, rows: mx.array) -> mx.array | None:
    """The part of a mask that is for some queries."""
    return mask[..., rows, :] if mask is not None and mask.shape[-2] > 1 else mask
