"""Windows at work: what is forwarded of one canvas now, and the keys and values kept of it.

The loop asks a sight for the logits of the positions that may be committed. What each shows, and
why, is said where it is named, in `windows`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, masked_first
from .errors import ConfigError
from .model import Dream, Positions, left_padded
from .sampling import SCORES


@dataclass(frozen=True, eq=False)
class View:
    """What one forward shows.

    Attributes:
        positions: int32 `[B, R]`, where on the canvas the candidates stand; no position twice in a row.
        valid: bool `[B, R]`, which of them are masked; the others only fill the rectangle.
        logits: `[B, R, V]`, of the candidates: shifted already.
        forwarded: positions that went through the network, a row.
        forwards: forward passes that took, 0 where the answer was known already.
        every: `[B, L, V]`, the shifted logits of the whole canvas, where they were asked for.
    """

    positions: NDArray[np.int32]
    valid: NDArray[np.bool_]
    logits: mx.array
    forwarded: int
    forwards: int = 1
    every: mx.array | None = None


class Sight(Protocol):
    """A window opened on one canvas."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], *, every: bool = False) -> View:
        """Forward what the window shows of `tokens` `[B, L]`; `known` is the same on the host."""
        ...


class WholeSight:
    """`windows.Whole` at work."""

    def __init__(self, model: Dream, canvas: Canvas):
        self._model = model
        self._padding = canvas.padding[:, None]
        self._positions: Positions = 0
        self._mask: mx.array | None = None
        if canvas.padding.any():
            self._positions, self._mask = left_padded(mx.array(canvas.padding), canvas.tokens.shape[1])
        self._mask_id = canvas.mask_id

    def look(self, tokens: mx.array, known: NDArray[np.int32], *, every: bool = False) -> View:
        positions, valid = masked_first(known == self._mask_id)
        length = known.shape[1]
        if not every:
            # Position i is predicted by row i - 1, and a row's first one, as in the reference, by itself.
            left = mx.array(np.maximum(positions - 1, self._padding))
            return View(positions, valid, self._model(tokens, rows=left, positions=self._positions, mask=self._mask), length)
        logits = self._model(tokens, positions=self._positions, mask=self._mask)
        logits = mx.concatenate([logits[:, :1], logits[:, :-1]], axis=1)  # [B, L, V]
        return View(positions, valid, mx.take_along_axis(logits, mx.array(positions)[..., None], axis=1), length, every=logits)


class DraftSight:
    """`windows.Drafts` at work."""

    def __init__(self, model: Dream, canvas: Canvas, ahead: int, alg: str):
        self._model, self._mask_id = model, canvas.mask_id
        self._ahead, self._score = ahead, SCORES[alg]
        self._padding = canvas.padding[:, None]
        self._positions: Positions = 0
        self._mask: mx.array | None = None
        if canvas.padding.any():
            padding = mx.array(np.repeat(canvas.padding, ahead))
            self._positions, self._mask = left_padded(padding, canvas.tokens.shape[1])
        self._drafts = np.zeros((len(canvas.tokens), 0, canvas.tokens.shape[1]), dtype=np.int32)  # [B, K, L]
        self._hidden = mx.zeros((0,))  # [B, K, L, D]
        self._last: tuple[NDArray[np.int32], mx.array, mx.array] | None = None  # positions, tokens, scores

    def look(self, tokens: mx.array, known: NDArray[np.int32], *, every: bool = False) -> View:
        if every:
            raise ConfigError("window must be 'whole' for hooks: they see the whole canvas", field="window")
        same = (self._drafts == known[:, None, :]).all(axis=-1)  # [B, K]
        forwards, length = 0, known.shape[1]
        if not same.any(axis=1).all():
            forwards = 1
            self._drafts = self._draft(known)
            B, K, _ = self._drafts.shape
            flat = mx.array(self._drafts.reshape(B * K, length))
            self._hidden = self._model.model(flat, self._positions, self._mask, None).reshape(B, K, length, -1)
            same = np.arange(K) == np.zeros((B, 1))
        which = mx.array(same.argmax(axis=1))[:, None, None, None]
        hidden = mx.take_along_axis(self._hidden, which, axis=1)[:, 0]  # [B, L, D]
        positions, valid = masked_first(known == self._mask_id)
        logits = self._model.logits(hidden, mx.array(np.maximum(positions - 1, self._padding)))
        self._remember(positions, valid, logits)
        return View(positions, valid, logits, forwards * self._drafts.shape[1] * length, forwards)

    def _draft(self, known: NDArray[np.int32]) -> NDArray[np.int32]:
        """The canvas `[B, L]` itself, and what it becomes if the last look's guesses are committed in turn."""
        drafts = np.repeat(known[:, None], self._ahead, axis=1)
        if self._last is None:
            return drafts
        positions, tokens, scores = self._last[0], np.array(self._last[1]), np.array(self._last[2])
        for row, order in enumerate(np.argsort(-scores, axis=1, kind="stable")):
            left = [place for place in order if known[row, positions[row, place]] == self._mask_id]
            for count, place in enumerate(left[: self._ahead - 1], start=1):
                drafts[row, count:, positions[row, place]] = tokens[row, place]
        return drafts

    def _remember(self, positions: NDArray[np.int32], valid: NDArray[np.bool_], logits: mx.array) -> None:
        logits = mx.where(mx.arange(logits.shape[-1]) == self._mask_id, -mx.inf, logits.astype(mx.float32))
        probs = mx.softmax(logits, axis=-1)
        tokens = mx.argmax(probs, axis=-1)
        scores = self._score(probs, tokens, mx.random.key(0))
        self._last = (positions, tokens, mx.where(mx.array(valid), scores, -mx.inf))


class _KeptSight(ABC):
    """What windows that keep keys and values have in common: one forward of chosen positions."""

    def __init__(self, model: Dream, canvas: Canvas):
        self._model, self._mask_id = model, canvas.mask_id
        self._padding = canvas.padding[:, None]
        self._real = np.arange(canvas.tokens.shape[1]) >= self._padding  # [B, L]
        self._kept = _Kept(canvas.tokens.shape[1])

    @abstractmethod
    def _choose(self, masked: NDArray[np.bool_]) -> "_Choice":
        """What to do with a canvas of these masks, bool `[B, L]`."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], *, every: bool = False) -> View:
        if every:
            raise ConfigError("window must be 'whole' for hooks: they see the whole canvas", field="window")
        choice = self._choose(known == self._mask_id)
        index, alone = masked_first(choice.forwarded)  # ascending where alone: [B, W]
        # Where a row forwards less than the widest, its last position is forwarded again: it
        # writes the same keys and values to the same place.
        count = alone.sum(axis=1, keepdims=True)
        index = np.take_along_axis(index, np.minimum(np.arange(index.shape[1]), count - 1), axis=1)
        positions, valid = masked_first(choice.candidates)
        rows = np.stack([np.searchsorted(row[:n], at) for row, n, at in zip(index, count[:, 0], positions - 1, strict=True)])
        at = mx.array(index)
        places = self._kept.place(index)
        logits = self._model(
            mx.take_along_axis(tokens, at, axis=1),
            rows=mx.array(np.clip(rows, 0, index.shape[1] - 1)),
            positions=at - mx.array(self._padding),
            mask=mx.array((self._real & choice.visible)[:, places])[:, None, None, :],
            kv=self._kept,
        )
        return View(positions, valid, logits, index.shape[1])


@dataclass(frozen=True, eq=False)
class _Choice:
    """Bool `[B, L]` each: what to forward, what may be committed, what may be attended to."""

    forwarded: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    visible: NDArray[np.bool_]


class SlidingSight(_KeptSight):
    """`windows.Sliding` at work."""

    def __init__(self, model: Dream, canvas: Canvas, width: int, suffix: int, refresh: int):
        super().__init__(model, canvas)
        self._width, self._suffix, self._refresh_after = width, suffix, refresh
        self._settled = ~self._real  # padding is never forwarded: it must not hold the window open
        self._masks_at_refresh: int | None = None

    def _choose(self, masked: NDArray[np.bool_]) -> _Choice:
        self._refresh(int(masked.sum()))
        at, length = np.arange(masked.shape[1]), masked.shape[1]
        has_mask = masked.any(axis=1, keepdims=True)
        first = np.where(has_mask, masked.argmax(axis=1, keepdims=True), length)  # [B, 1]
        stale = np.where(self._settled, length, at).min(axis=1, keepdims=True)
        start = np.minimum(stale, first - 1)
        end = first + self._width
        shown = (at >= start) & (at < end + self._suffix)
        # A row that has no mask left only keeps the others company, with its last position.
        forwarded = self._real & shown & has_mask | (at == length - 1)
        visible = forwarded | self._settled
        self._settled |= forwarded & ~masked
        return _Choice(forwarded, masked & (at < end), visible)

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

    def _choose(self, masked: NDArray[np.bool_]) -> _Choice:
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


class _Kept:
    """Keys and values of the canvas as far as it was forwarded, and of its last position.

    They stand in as many places as that takes, in steps of `STEP`: so a long canvas whose answer is
    short costs what a short canvas costs. The last place is the last position's.
    """

    STEP = 64

    def __init__(self, length: int):
        self._length = length
        self._places = 0
        self._at = mx.zeros((1, 1), dtype=mx.int32)
        self._layers: dict[int, tuple[mx.array, mx.array]] = {}

    def place(self, index: NDArray[np.int32]) -> NDArray[np.int64]:
        """Get ready for the positions `index` `[B, W]`; returns which position has each place."""
        far = int(np.where(index < self._length - 1, index, -1).max()) + 2  # and one for the last position
        self._places = min(self._length, max(self._places, -(-far // self.STEP) * self.STEP))
        self._at = mx.array(np.minimum(index, self._places - 1))[:, None, :, None]
        return np.append(np.arange(self._places - 1), self._length - 1)

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        old = self._layers.get(layer, (keys[:, :, :0], values[:, :, :0]))
        self._layers[layer] = (self._put(old[0], keys), self._put(old[1], values))
        return self._layers[layer]

    def _put(self, kept: mx.array, fresh: mx.array) -> mx.array:
        # A place that is new, or was the last one's before, is not attended to before it is written.
        kept = mx.pad(kept, [(0, 0), (0, 0), (0, self._places - kept.shape[2]), (0, 0)])
        return mx.put_along_axis(kept, mx.broadcast_to(self._at, fresh.shape), fresh, axis=2)
