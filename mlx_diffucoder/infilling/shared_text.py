"""Keys and values of the text around holes, computed once for canvases whose holes have different lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..decoding.canvas import Canvas
from ..decoding.windows.base import Part, WindowState
from ..decoding.windows.cache import CanvasCache
from ..decoding.windows.sliding import Sliding, SlidingState
from ..models.kv import LayerKV, PositionedKVCache
from ..models.transformer import DiffusionModel

MARGIN = 16
"""Tokens on each side of a hole that are forwarded again on every canvas."""


class SharedText:
    """The K/V of the texts around holes, from one canvas that was forwarded whole.

    What is in a hole changes the K/V of all text, and most of that near it. So a canvas forwards its holes and the `MARGIN`
    tokens next to them, and takes the K/V of the other text as they were, with its keys turned to where the text is now.

    Args:
        model: the network.
        sizes: tokens of the texts around the holes, one more than there are holes.
    """

    def __init__(self, model: DiffusionModel, sizes: Sequence[int]):
        self._model, self._sizes = model, sizes
        self._source: PositionedKVCache | CanvasCache | None = None
        self._lengths: Sequence[int] = ()

    def take_from(self, source: PositionedKVCache | CanvasCache, lengths: Sequence[int]) -> None:
        """Use the K/V of a canvas that is about to be forwarded whole, whose holes have these lengths; the last one counts."""
        self._source, self._lengths = source, lengths

    @property
    def known(self) -> bool:
        """Whether there are K/V: a canvas was forwarded, and all of it."""
        layers = self._source.layers if self._source else []
        return bool(layers) and layers[0][0].shape[2] == sum(self._sizes) + sum(self._lengths)

    def _starts_of(self, lengths: Sequence[int]) -> list[int]:
        """Where each text starts if the holes have these lengths."""
        return [0, *accumulate(size + length for size, length in zip(self._sizes, lengths, strict=False))]

    def kept(self, lengths: Sequence[int]) -> NDArray[np.bool_]:
        """The positions whose K/V are known, bool `[L]`, on a canvas whose holes have these lengths."""
        kept = np.zeros(sum(self._sizes) + sum(lengths), dtype=np.bool_)
        last = len(self._sizes) - 1
        for text, (start, size) in enumerate(zip(self._starts_of(lengths), self._sizes, strict=True)):
            near = MARGIN * (text > 0), MARGIN * (text < last)
            kept[start + near[0] : max(0, start + size - near[1])] = self.known
        return kept

    def layers(self, lengths: Sequence[int]) -> LayerKV:
        """The K/V of each position, on a canvas whose holes have these lengths, 0 in and near the holes; empty if not known."""
        if self._source is None or not self.known:
            return []
        starts = zip(self._starts_of(self._lengths), self._sizes, self._starts_of(lengths), strict=True)
        pieces = [(old, old + size, new) for old, size, new in starts]
        return self._model.moved(self._source.layers, pieces, sum(self._sizes) + sum(lengths))

    def part(self, ids: NDArray[np.int32], lengths: Sequence[int]) -> tuple[Part, NDArray[np.int32]]:
        """What to forward of a canvas, and the positions in it, int32 `[n]`. Without K/V it is forwarded whole.

        Args:
            ids: the canvas, int32 `[L]`.
            lengths: of its holes.
        """
        at = np.flatnonzero(~self.kept(lengths)).astype(np.int32)
        cache = PositionedKVCache(from_numpy(at[None]), len(ids), self.layers(lengths))
        if not self.known:
            self.take_from(cache, lengths)
        return Part(from_numpy(ids[None, at]), from_numpy(at[None]), None, cache), at


@dataclass(frozen=True)
class SharedSliding(Sliding):
    """`Sliding` on a canvas that shares the K/V of its text with others.

    Attributes:
        text: its K/V.
    """

    text: SharedText

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        state = SlidingState(model, canvas, self, self.text.layers(canvas.lengths), self.text.kept(canvas.lengths))
        if not self.text.known:
            self.text.take_from(state.cache, canvas.lengths)
        return state
