"""The K/V cache of a canvas, shared by the windows that forward only a part of it."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...models.kv import LayerKV, PositionedKVCache
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, predictor_of
from .base import Forward, ForwardOutput, Part, candidates_of, rows_of

GROWTH = 64
"""`CanvasCache` grows by so many positions at once."""
SLOTS = 1024
"""`AppendedKVCache` grows by so many, so that an answer has few shapes of forwards."""


class AppendedKVCache:
    """`KeyValues` with a slot for each position: the rows of a forward are appended, and kept only when `keep` says so.

    The rows attend to all slots first, then to each other. Rows that are kept move to their slots at the start of the
    next forward, one write for each layer.

    Args:
        length: the number of positions.
    """

    def __init__(self, length: int):
        self._most, self._slots = length + 1, 0
        self._stored: LayerKV = []
        self._appended: LayerKV = []
        self._moves = mx.zeros((0,))

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """As `KeyValues.update`: S is the number of slots, and the rows after them."""
        if not self._slots:
            self._appended.append((keys, values))
            return keys, values
        moved = self._appended[layer]
        if layer == len(self._stored):
            empty = mx.zeros((*keys.shape[:2], 0, keys.shape[3]), keys.dtype)
            self._stored.append((empty, empty))
        stored = self._stored[layer]
        stored = self._move(stored[0], moved[0]), self._move(stored[1], moved[1])
        self._stored[layer], self._appended[layer] = stored, (keys, values)
        return mx.concatenate([stored[0], keys], axis=2), mx.concatenate([stored[1], values], axis=2)

    def _move(self, stored: mx.array, rows: mx.array) -> mx.array:
        if grown := self._slots - stored.shape[2]:  # padding by nothing would copy
            stored = mx.pad(stored, [(0, 0), (0, 0), (0, grown), (0, 0)])
        return mx.put_along_axis(stored, self._moves, rows, axis=2)

    def keep(self, slots: NDArray[np.int32]) -> None:
        """Give rows of the last forward their slots.

        Args:
            slots: int32 `[L]`, the position of each row, or -1 for one that is dropped.
        """
        # The last slot is for what is dropped; nothing attends to it.
        self._slots = max(self._slots, min(self._most, -(-(int(slots.max()) + 2) // SLOTS) * SLOTS))
        moves = from_numpy(np.where(slots < 0, self._slots - 1, slots))[None, None, :, None]
        self._moves = mx.broadcast_to(moves, self._appended[0][0].shape)  # once for all layers

    def visible(self, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The slots that may be attended to, bool `[S]`, from the positions `[L]` whose K/V are valid."""
        shown = np.zeros(self._slots, dtype=np.bool_)
        shown[: len(valid)] = valid[: self._slots]
        return shown


@dataclass(frozen=True, eq=False)
class ForwardPlan:
    """What one forward of a window does, bool `[L]` each.

    Attributes:
        forwarded: the positions that go through the network; their K/V are written to the cache.
        candidates: masked positions that may be committed. What predicts each of them is forwarded.
        attended: the positions whose K/V the forwarded ones attend to: just forwarded, or from the cache.
        cache_valid: the positions whose cached K/V were computed after their token was committed, once this forward
            has run; None for a window that attends to other K/V too.
    """

    forwarded: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    attended: NDArray[np.bool_]
    cache_valid: NDArray[np.bool_] | None = None


class CanvasCache:
    """The K/V of the positions of a canvas, and the forward that reads and writes them.

    The cache has a slot for each position up to the last one forwarded so far, in steps of `GROWTH`, and its last
    slot belongs to the canvas's last position: so a long canvas with a short answer costs no more than a short one.

    Args:
        model: the network.
        canvas: the canvas.
        multiple: the number of positions in a forward is rounded up to a multiple of this: fewer different
            shapes.
        candidates: the least number of candidates, as far as there are positions; for the same reason.
        layers: K/V that are known at the start, of each position; None for none.

    Attributes:
        slots: how many slots there are now.
        layers: the K/V now, of each slot.
    """

    def __init__(
        self, model: DiffusionModel, canvas: Canvas, *, multiple: int = 1, candidates: int = 1, layers: LayerKV | None = None
    ):
        self._shift, self._length = model.shift, len(canvas.tokens)
        self._multiple, self._candidates = multiple, candidates
        self.slots = self._length if layers else 0
        self.layers: LayerKV = layers or []

    @property
    def nbytes(self) -> int:
        """Bytes of the K/V."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def forward(self, tokens: NDArray[np.int32], plan: ForwardPlan) -> Forward:
        """Carry out a plan.

        Args:
            tokens: the canvas, int32 `[L]`.
        """
        index = np.flatnonzero(plan.forwarded).astype(np.int32)
        start, count = int(index[0]), len(index)
        # The last one is forwarded again to make a multiple; that writes the same K/V to the same slot.
        index = np.pad(index, (0, -count % self._multiple), mode="edge")  # [W]
        positions, masked = candidates_of(plan.candidates, self._candidates)
        part, cache = self._part(tokens, index, plan.attended)
        hidden = yield part
        self.layers = cache.layers
        rows = np.searchsorted(index[:count], predictor_of(positions, self._shift))
        predicting = rows_of(hidden, np.minimum(rows, len(index) - 1))
        end = start + int(np.append(plan.forwarded[start:], False).argmin())  # of the first run
        return ForwardOutput(positions, masked, predicting, len(index), (start, end))

    def _part(
        self, tokens: NDArray[np.int32], index: NDArray[np.int32], attended: NDArray[np.bool_]
    ) -> tuple[Part, PositionedKVCache]:
        """The forward of the positions `index` `[W]`, and the cache that it writes their K/V to.

        A slot that is new, or has belonged to the canvas's last position, is not attended to before it is written.
        """
        furthest = int(np.where(index < self._length - 1, index, -1).max()) + 2
        self.slots = min(self._length, max(self.slots, -(-furthest // GROWTH) * GROWTH))
        position_of_slot = np.append(np.arange(self.slots - 1), self._length - 1)
        cache = PositionedKVCache(from_numpy(np.minimum(index, self.slots - 1)[None]), self.slots, self.layers)
        attended_slots = from_numpy(attended[position_of_slot])[None, None, None]
        return Part(from_numpy(tokens[None, index]), from_numpy(index[None]), attended_slots, cache), cache
