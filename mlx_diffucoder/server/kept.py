"""The K/V of texts around holes, kept between requests: the next keystroke changes little of them.

With full attention every token changes the K/V of all others, and most those of its neighbours. So what is kept is an
approximation: a new hole computes `MARGIN` tokens on each of its sides again, and takes the other K/V as they were, with
keys rotated to where the text is now.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..decoding.canvas import Canvas
from ..decoding.windows.base import Forward, WindowState
from ..decoding.windows.sliding import Sliding, SlidingState
from ..models.kv import LayerKV
from ..models.transformer import DiffusionModel

MARGIN = 24
"""Tokens on each side of a hole whose K/V are computed again."""
SHARE = 0.05
"""Of the memory that a program may use, what the kept K/V may take."""
LARGEST = 2**30
"""Bytes that they may take at most."""


class KeptTexts:
    """The K/V of the last canvases, as many as fit.

    Args:
        most: bytes that they may take.
    """

    def __init__(self, most: int):
        self._most, self._states = most, list[KeepingState]()

    def window(self, window: Sliding) -> "Keeping":
        """A window that uses what is kept, and whose K/V are kept."""
        return Keeping(window.width, window.suffix, window.refresh, self)

    def put(self, state: "KeepingState") -> None:
        """Keep the K/V of a canvas; the oldest leave."""
        self._states.append(state)
        while len(self._states) > 1 and sum(one.cache.nbytes for one in self._states) > self._most:
            del self._states[0]

    def find(self, model: DiffusionModel, canvas: Canvas) -> tuple[LayerKV, NDArray[np.bool_]] | None:
        """The K/V of each position of a canvas with one hole, and the positions that they are for, bool `[L]`."""
        best = max(self._states, key=lambda state: sum(state.shared(canvas)), default=None)
        if best is None or not sum(shared := best.shared(canvas)):
            return None
        self._states.remove(best)  # what was used last leaves last
        self._states.append(best)
        before, after = shared
        size, old = len(canvas.tokens), len(best.tokens)
        valid = np.zeros(size, dtype=np.bool_)
        valid[:before] = valid[size - after :] = True
        return model.moved(best.cache.layers, [(0, before, 0), (old - after, old, size - after)], size), valid


@dataclass(frozen=True)
class Keeping(Sliding):
    """`Sliding` on a canvas with one hole that uses the K/V of an earlier one.

    Attributes:
        texts: the earlier ones.
    """

    texts: KeptTexts

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        state = KeepingState(model, canvas, self, *(self.texts.find(model, canvas) or (None, None)))
        self.texts.put(state)
        return state


class KeepingState(SlidingState):
    """`Keeping` at work.

    Attributes:
        tokens: the canvas in the last forward, int32 `[L]`.
    """

    tokens = np.zeros(0, dtype=np.int32)

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        self.tokens = tokens
        return (yield from super().forward(tokens))

    def shared(self, canvas: Canvas) -> tuple[int, int]:
        """How many K/V at the start and at the end another canvas can take."""
        if not self.tokens.size or self.cache.slots != len(self.tokens):  # not every position has its slot
            return 0, 0
        old = np.where(self.cache_valid, self.tokens, -1)
        new, (start, stop) = canvas.tokens, canvas.holes[0].tolist()
        before, after = _equal(old, new), _equal(old[::-1], new[::-1])
        return max(0, min(before, start - MARGIN)), max(0, min(after, len(new) - stop - MARGIN))


def _equal(old: NDArray[np.int32], new: NDArray[np.int32]) -> int:
    """How many tokens at the start of two texts are equal."""
    most = min(len(old), len(new))
    differs = np.flatnonzero(old[:most] != new[:most])
    return int(differs[0]) if len(differs) else most
