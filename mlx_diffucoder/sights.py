"""Windows at work: what is forwarded of one canvas now, and the keys and values kept of it.

The loop asks a sight for what the network puts out where tokens may be committed. What each shows,
and why, is said where it is named, in `windows`.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, masked_first
from .errors import ConfigError
from .model import Dream, Positions, left_padded


@dataclass(frozen=True, eq=False)
class View:
    """What one forward shows.

    Attributes:
        positions: int32 `[B, R]`, where on the canvas the candidates stand; no position twice in a row.
        valid: bool `[B, R]`, which of them are masked.
        again: bool `[B, R]`, which of them are not, but are looked at again. What is neither only
            fills the rectangle.
        hidden: `[B, R, D]`, what the layers put out for the candidates: shifted already, and still
            to go through `Dream.logits`.
        forwarded: positions that went through the network, over all rows of the rectangle, a row.
        forwards: forward passes that took, 0 where the answer was known already.
        every: `[B, L, V]`, the shifted logits of the whole canvas, where they were asked for.
        window: int32 `[B, 2]`, the first and one past the last position forwarded, the canvas's last one beside
            them left out; None is the whole canvas.
    """

    positions: NDArray[np.int32]
    valid: NDArray[np.bool_]
    again: NDArray[np.bool_]
    hidden: mx.array
    forwarded: int
    forwards: int = 1
    every: mx.array | None = None
    window: NDArray[np.int32] | None = None


class Sight(Protocol):
    """A window opened on one canvas."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> View:
        """Forward what the window shows.

        Args:
            tokens: the canvas `[B, L]`.
            known: the same on the host.
            again: bool `[B, L]`, committed positions to look at again, where the window shows them.
            every: give the logits of the whole canvas too; only the whole canvas can.
        """
        ...

    def guess(self, positions: NDArray[np.int32], tokens: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        """Told after each look which token was chosen at each candidate and how it scored, `[B, R]` each."""
        ...


def candidates_of(
    masked: NDArray[np.bool_], again: NDArray[np.bool_], least: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
    """`View`'s positions, `valid` and `again`, of bool `[B, L]`."""
    positions, _ = masked_first(masked | again, least)
    return positions, np.take_along_axis(masked, positions, axis=1), np.take_along_axis(again, positions, axis=1)


def refuse(every: bool) -> None:
    """What a window that does not show the whole canvas does where all of it is asked for."""
    if every:
        raise ConfigError("window must be 'whole' for hooks: they see the whole canvas", field="window")


def rows_of(hidden: mx.array, rows: NDArray[np.int32]) -> mx.array:
    """Rows `[B, R]` of `[B, L, D]`."""
    return mx.take_along_axis(hidden, mx.array(rows)[..., None], axis=1)


class NoDrafts:
    """Of windows that make nothing of guesses."""

    def guess(self, positions: NDArray[np.int32], tokens: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        pass


class WholeSight(NoDrafts):
    """`windows.Whole` at work."""

    def __init__(self, model: Dream, canvas: Canvas):
        self._model = model
        self._padding = canvas.padding[:, None]
        self._positions: Positions = 0
        self._mask: mx.array | None = None
        if canvas.padding.any():
            self._positions, self._mask = left_padded(mx.array(canvas.padding), canvas.tokens.shape[1])
        self._mask_id = canvas.mask_id

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> View:
        positions, valid, again = candidates_of(known == self._mask_id, again)
        hidden = self._model.model(tokens, self._positions, self._mask, None)
        # Position i is predicted by row i - 1, and a row's first one, as in the reference, by itself.
        shown = rows_of(hidden, np.maximum(positions - 1, self._padding))
        logits = None
        if every:
            logits = self._model.logits(hidden)
            logits = mx.concatenate([logits[:, :1], logits[:, :-1]], axis=1)  # [B, L, V]
        return View(positions, valid, again, shown, known.shape[1], every=logits)


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


class DraftSight:
    """`windows.Drafts` at work."""

    def __init__(self, model: Dream, canvas: Canvas, ahead: int):
        self._model, self._mask_id = model, canvas.mask_id
        self._sets = draft_sets(ahead)
        self._canvas = canvas
        self._drafts = np.zeros((len(canvas.tokens), 0, canvas.tokens.shape[1]), dtype=np.int32)  # [B, K, L]
        self._hidden = mx.zeros((0,))  # [B, K, L, D]
        self._last: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] | None = None

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> View:
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
        return View(positions, valid, again, shown, forwards * self._drafts.shape[1] * length, forwards)

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
