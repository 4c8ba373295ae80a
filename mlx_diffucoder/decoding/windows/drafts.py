"""The window that forwards the whole canvas and its probable successors in one batch."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...models.transformer import DiffusionModel, Positions, left_padded
from ..canvas import Canvas
from .base import ForwardOutput, StopsWithText, WindowState, candidates_of, refuse, rows_of


@dataclass(frozen=True)
class Drafts(StopsWithText):
    """The whole canvas, and in the same forward the canvases that will probably come next.

    After a commit, sets of the guesses that are left are filled in as they looked before, those
    sets that are the likeliest to be committed next; all of these canvases are forwarded in one
    batch. As long as the rule then makes a canvas that was among them, its logits are there
    already. What is seen is always what the whole canvas gives: the text is that of `Whole`, in
    fewer and larger forwards. FreeDave (arXiv 2510.00294) drafts one order of commits; sets, in
    which orders meet again, are reached more often.

    Attributes:
        ahead: canvases in a batch.
    """

    ahead: int

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return self.ahead * (prompt + masks), masks

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return DraftsState(model, canvas, self.ahead)


# How often the surest guess, the second, ... of one look is the next to be committed, on `pocket-1`.
_NEXT = (0.6, 0.18, 0.08, 0.04, 0.02)


def draft_sets(count: int) -> list[frozenset[int]]:
    """The `count` sets of commits that are most likely to be reached, the empty one first.

    A canvas is told by which of the guesses are on it, in whatever order they came: so two guesses
    that change places lead back to the same canvas. A guess goes by its rank, 0 the surest.
    """
    reached = {frozenset[int](): 1.0}
    reach: dict[frozenset[int], float] = {}
    latest = frozenset[int]()
    while len(reached) < count:
        rest = (rank for rank in range(count + len(_NEXT)) if rank not in latest)
        for rank, share in zip(rest, _NEXT, strict=False):
            following = latest | {rank}
            reach[following] = reach.get(following, 0.0) + reached[latest] * share
        latest = max((one for one in reach if one not in reached), key=lambda one: (reach[one], -sum(one)))
        reached[latest] = reach[latest]
    return list(reached)


class DraftsState:
    """`windows.Drafts` at work."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, ahead: int):
        self._model, self._mask_id = model, canvas.mask_id
        self._sets = draft_sets(ahead)
        self._canvas = canvas
        self._drafts = np.zeros((len(canvas.tokens), 0, canvas.tokens.shape[1]), dtype=np.int32)  # [B, K, L]
        self._hidden = mx.zeros((0,))  # [B, K, L, D]
        self._last: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] | None = None

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> ForwardOutput:
        refuse(every)
        same = (self._drafts == known[:, None, :]).all(axis=-1)  # [B, K]
        forwards, length = 0, known.shape[1]
        if not same.any(axis=1).all():
            forwards = 1
            self._drafts = self._draft(known)
            self._hidden = self._forward()
            same = np.arange(self._drafts.shape[1]) == np.zeros((len(known), 1))
        which = mx.array(same.argmax(axis=1))[:, None, None, None]
        hidden = mx.take_along_axis(self._hidden, which, axis=1)[:, 0]  # [B, L, D]
        positions, valid, again = candidates_of(known == self._mask_id, again)
        shown = rows_of(hidden, np.maximum(positions - 1, self._canvas.padding[:, None]))
        return ForwardOutput(positions, valid, again, shown, forwards * self._drafts.shape[1] * length, forwards)

    def guess(self, positions: NDArray[np.int32], tokens: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        self._last = (positions, tokens, scores)

    def _forward(self) -> mx.array:
        B, K, L = self._drafts.shape
        positions: Positions = 0
        mask = None
        if self._canvas.padding.any():
            positions, mask = left_padded(mx.array(np.repeat(self._canvas.padding, K)), L)
        return self._model.model(mx.array(self._drafts.reshape(B * K, L)), positions, mask, None).reshape(B, K, L, -1)

    def _draft(self, known: NDArray[np.int32]) -> NDArray[np.int32]:
        """The canvas `[B, L]` itself, and what it becomes with some of the last look's guesses committed."""
        if self._last is None:
            return known[:, None]
        drafts = np.repeat(known[:, None], len(self._sets), axis=1)
        positions, tokens, scores = self._last
        for row, order in enumerate(np.argsort(-scores, axis=1, kind="stable")):
            left = [place for place in order if known[row, positions[row, place]] == self._mask_id]
            for draft, ranks in zip(drafts[row], self._sets, strict=True):
                places = [left[rank] for rank in ranks if rank < len(left)]
                draft[positions[row, places]] = tokens[row, places]
        return drafts
