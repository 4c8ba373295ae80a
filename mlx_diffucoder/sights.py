"""Windows at work: what is forwarded of one canvas now, and the keys and values kept of it.

The loop asks a sight for what the network puts out where tokens may be committed. What each shows,
and why, is said where it is named, in `windows`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, masked_first
from .errors import ConfigError
from .model import Dream, Layers, Positions, left_padded


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


def _candidates(
    masked: NDArray[np.bool_], again: NDArray[np.bool_], least: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
    """`View`'s positions, `valid` and `again`, of bool `[B, L]`."""
    positions, _ = masked_first(masked | again, least)
    return positions, np.take_along_axis(masked, positions, axis=1), np.take_along_axis(again, positions, axis=1)


def _refuse(every: bool) -> None:
    if every:
        raise ConfigError("window must be 'whole' for hooks: they see the whole canvas", field="window")


def _rows(hidden: mx.array, rows: NDArray[np.int32]) -> mx.array:
    """Rows `[B, R]` of `[B, L, D]`."""
    return mx.take_along_axis(hidden, mx.array(rows)[..., None], axis=1)


def _first_run(forwarded: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Where the first run of True in each row of `[B, L]` starts and ends, `[B, 2]`."""
    start = forwarded.argmax(axis=1)
    over = ~forwarded & (np.arange(forwarded.shape[1]) > start[:, None])
    end = np.where(over.any(axis=1), over.argmax(axis=1), forwarded.shape[1])
    return np.stack([start, end], axis=1).astype(np.int32)


class _NoDrafts:
    """Of windows that make nothing of guesses."""

    def guess(self, positions: NDArray[np.int32], tokens: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        pass


class WholeSight(_NoDrafts):
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
        positions, valid, again = _candidates(known == self._mask_id, again)
        hidden = self._model.model(tokens, self._positions, self._mask, None)
        # Position i is predicted by row i - 1, and a row's first one, as in the reference, by itself.
        shown = _rows(hidden, np.maximum(positions - 1, self._padding))
        logits = None
        if every:
            logits = self._model.logits(hidden)
            logits = mx.concatenate([logits[:, :1], logits[:, :-1]], axis=1)  # [B, L, V]
        return View(positions, valid, again, shown, known.shape[1], every=logits)


# How often the surest guess, the second, ... of one look is the next to be committed, on `pocket`.
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
        _refuse(every)
        same = (self._drafts == known[:, None, :]).all(axis=-1)  # [B, K]
        forwards, length = 0, known.shape[1]
        if not same.any(axis=1).all():
            forwards = 1
            self._drafts = self._draft(known)
            self._hidden = self._forward()
            same = np.arange(self._drafts.shape[1]) == np.zeros((len(known), 1))
        which = mx.array(same.argmax(axis=1))[:, None, None, None]
        hidden = mx.take_along_axis(self._hidden, which, axis=1)[:, 0]  # [B, L, D]
        positions, valid, again = _candidates(known == self._mask_id, again)
        shown = _rows(hidden, np.maximum(positions - 1, self._canvas.padding[:, None]))
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


class _KeptSight(_NoDrafts, ABC):
    """What windows that keep keys and values have in common: one forward of chosen positions."""

    ROUND = 1  # positions are forwarded in multiples of it: fewer shapes
    LEAST = 1  # candidates, where there are as many positions: the same

    def __init__(self, model: Dream, canvas: Canvas):
        self._model, self._mask_id = model, canvas.mask_id
        self._padding = canvas.padding[:, None]
        self._real = np.arange(canvas.tokens.shape[1]) >= self._padding  # [B, L]
        self._length = canvas.tokens.shape[1]
        self._places = 0
        self._kept: Layers = []

    @abstractmethod
    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> "_Choice":
        """What to do with a canvas of these masks, bool `[B, L]`, and of these positions to look at again."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> View:
        _refuse(every)
        choice = self._choose(known == self._mask_id, again)
        count = choice.forwarded.sum(axis=1, keepdims=True)
        width = -(-int(count.max()) // self.ROUND) * self.ROUND
        index, _ = masked_first(choice.forwarded)  # ascending where forwarded: [B, W]
        # Where a row forwards less than the widest, its last position is forwarded again: it
        # writes the same keys and values to the same place.
        index = np.take_along_axis(index, np.minimum(np.arange(width), count - 1), axis=1)
        predictor = np.roll(choice.forwarded, 1, axis=1)  # whether the position to the left is forwarded
        positions, valid, again = _candidates(choice.candidates, again & choice.forwarded & predictor, self.LEAST)
        rows = np.stack([np.searchsorted(row[:n], at) for row, n, at in zip(index, count[:, 0], positions - 1, strict=True)])
        hidden = self._forward(tokens, index, self._real & choice.visible)
        shown = _rows(hidden, np.clip(rows, 0, width - 1))
        return View(positions, valid, again, shown, width, window=_first_run(choice.forwarded))

    def _forward(self, tokens: mx.array, index: NDArray[np.int32], visible: NDArray[np.bool_]) -> mx.array:
        """Forward the positions `index` `[B, W]`, keeping their keys and values; `[B, W, D]`.

        The kept ones stand in as many places as the canvas was forwarded so far, in steps of
        `STEP`, and the last place is the canvas's last position's: so a long canvas whose answer is
        short costs what a short canvas costs. A place that is new, or was the last one's before, is
        not attended to before it is written.
        """
        far = int(np.where(index < self._length - 1, index, -1).max()) + 2
        self._places = min(self._length, max(self._places, -(-far // STEP) * STEP))
        position_of = np.append(np.arange(self._places - 1), self._length - 1)
        at = mx.array(index)
        hidden, self._kept = self._model.window(
            mx.take_along_axis(tokens, at, axis=1),
            at - mx.array(self._padding),
            mx.array(visible[:, position_of])[:, None, None, :],
            mx.array(np.minimum(index, self._places - 1)),
            self._kept,
        )
        return hidden


STEP = 64


@dataclass(frozen=True, eq=False)
class _Choice:
    """Bool `[B, L]` each: what to forward, what may be committed, what may be attended to."""

    forwarded: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    visible: NDArray[np.bool_]


class SlidingSight(_KeptSight):
    """`windows.Sliding` at work."""

    ROUND = 8

    def __init__(self, model: Dream, canvas: Canvas, width: int, suffix: int, refresh: int):
        super().__init__(model, canvas)
        self.LEAST = width
        self._width, self._suffix, self._refresh_after = width, suffix, refresh
        self._given = canvas.tokens != canvas.mask_id
        # Each hole with the text before it, and the last one with all behind it too: [B, 1] each.
        stops = [*canvas.holes[:, :-1, 1].T, np.full(len(canvas.tokens), self._length)]
        starts = [np.zeros(len(canvas.tokens), dtype=np.int32), *stops[:-1]]
        self._stretches = [(start[:, None], stop[:, None]) for start, stop in zip(starts, stops, strict=True)]
        self._settled = ~self._real  # padding is never forwarded: it must not hold the window open
        self._masks_at_refresh: int | None = None

    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> _Choice:
        self._settled &= ~masked  # what was taken back is not settled any more
        self._refresh(int(masked.sum()))
        shown = self._given & ~self._settled  # given text is seen from the first look on, wherever it stands
        candidates = np.zeros_like(masked)
        for low, high in self._stretches:
            more, near = self._slide(masked, again, low, high)
            shown, candidates = shown | more, candidates | near
        # Given text that was seen is forwarded again only where it predicts what stands to its right.
        predicts = np.roll(masked | again, -1, axis=1)
        shown &= ~(self._given & self._settled) | predicts
        # A row that has no mask left only keeps the others company, with its last position.
        last = np.arange(self._length) == self._length - 1
        forwarded = self._real & shown & masked.any(axis=1, keepdims=True) | last
        visible = forwarded | self._settled
        self._settled |= forwarded & ~masked
        return _Choice(forwarded, candidates, visible)

    def _slide(
        self, masked: NDArray[np.bool_], again: NDArray[np.bool_], low: NDArray[np.int32], high: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """What is shown, and may be committed, of the one hole from `low` to `high`, `[B, 1]` each."""
        at = np.arange(self._length)
        inside = (at >= low) & (at < high)
        masked = masked & inside
        has_mask = masked.any(axis=1, keepdims=True)
        first = np.where(has_mask, masked.argmax(axis=1, keepdims=True), high)
        stale = np.where(inside & ~self._settled, at, high).min(axis=1, keepdims=True)
        # One more to the left, where the first stale one is to be looked at again.
        predictor = np.take_along_axis(again, np.minimum(stale, self._length - 1), axis=1)
        start = np.minimum(stale - predictor, first - has_mask)
        end = first + self._width
        # The suffix takes what is left of the last `ROUND` positions.
        count = end + self._suffix - start + 1
        shown = (at >= start) & (at < np.minimum(end + self._suffix + -count % self.ROUND, high))
        return shown, masked & (at < end)

    def _refresh(self, masks: int) -> None:
        if self._masks_at_refresh is None:
            self._masks_at_refresh = masks
        if self._refresh_after and self._masks_at_refresh - masks >= self._refresh_after:
            self._masks_at_refresh = masks
            self._settled = ~self._real


class BlockSight(_KeptSight):
    """`windows.Blocks` at work."""

    def __init__(self, model: Dream, canvas: Canvas, size: int, cache: str):
        super().__init__(model, canvas)
        self._cache = cache
        # Masks in the prompt make a block of their own.
        self._starts = np.array([0, *range(canvas.start, canvas.tokens.shape[1], size)])
        self._ends = np.append(self._starts[1:], canvas.tokens.shape[1])
        self._block = -1

    def _choose(self, masked: NDArray[np.bool_], again: NDArray[np.bool_]) -> _Choice:
        at = np.arange(masked.shape[1])
        block = int(np.searchsorted(self._ends, masked.any(axis=0).argmax(), side="right"))
        opens, self._block = block != self._block, block
        start, end = self._starts[block], self._ends[block]
        candidates = masked & (at >= start) & (at < end)
        everything = np.ones_like(masked)
        if opens and self._cache != "none" and candidates[:, start].any():
            candidates = candidates & (at == start)
        if opens or self._cache == "none":
            return _Choice(self._real, candidates, everything)
        forwarded = (at >= start) & (at < (end if self._cache == "dual" else len(at)))
        return _Choice(np.broadcast_to(forwarded, masked.shape) & self._real, candidates, everything)
