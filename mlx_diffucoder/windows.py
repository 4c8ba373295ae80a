"""Which positions are forwarded, and which keys and values are kept between forwards.

A window is a small frozen value. Opened on a canvas it becomes a `Sight`, which holds what one
generation keeps, and which the loop asks for the logits of the positions that may be committed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, masked_first
from .config import WINDOWS, GenerationConfig, parse_choice
from .errors import ConfigError
from .model import Dream, Positions, left_padded


@dataclass(frozen=True, eq=False)
class View:
    """What one forward shows.

    Attributes:
        positions: int32 `[B, R]`, where on the canvas the candidates stand; no position twice in a row.
        valid: bool `[B, R]`, which of them are masked; the others only fill the rectangle.
        logits: `[B, R, V]`, of the candidates: shifted already.
        forwarded: positions that went through the network, a row.
        every: `[B, L, V]`, the shifted logits of the whole canvas, where they were asked for.
    """

    positions: NDArray[np.int32]
    valid: NDArray[np.bool_]
    logits: mx.array
    forwarded: int
    every: mx.array | None = None


class Sight(Protocol):
    """A window opened on one canvas."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], *, every: bool = False) -> View:
        """Forward what the window shows of `tokens` `[B, L]`; `known` is the same on the host."""
        ...


class Window(Protocol):
    """What the loop needs to know of a window."""

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        """Start on a canvas, with nothing kept."""
        ...


@dataclass(frozen=True)
class Whole:
    """Forward the whole canvas, keep nothing: the reference."""

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return _WholeSight(model, canvas)


@dataclass(frozen=True)
class Sliding:
    """Forward from the first position that is not settled to some masks ahead; freeze what is behind.

    A position is settled when it was forwarded after its token was committed: only then do its
    keys and values belong to that token (dKV-Cache, arXiv 2505.15781). The shift makes position
    i - 1 predict position i, so it is forwarded again as long as i is masked. Of the masks behind
    the window the next few and the last one are shown to the model (Streaming-dLLM, 2601.17917;
    DPad, 2508.14148), the others are not forwarded at all.

    Attributes:
        width: positions from the first mask on whose masks may be committed.
        suffix: positions behind them that are only shown.
        refresh: commits after which everything settled is encoded anew; 0 is never.
    """

    width: int
    suffix: int
    refresh: int

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return _SlidingSight(self, model, canvas)


@dataclass(frozen=True)
class Blocks:
    """Fast-dLLM's blocks, from left to right, with its caches (arXiv 2505.22618).

    Each block opens with a forward of the whole canvas, in which its first token is committed: the
    shift leaves that position without a logit in what follows. Then only the block is forwarded
    (`dual`), or the block and all behind it (`prefix`), while every other position keeps the keys
    and values of the block's first forward, whether its token has been committed since or not.
    Without a cache each forward is of the whole canvas. Here so that published numbers can be
    reproduced; `Sliding` costs less and loses less.

    Attributes:
        size: positions in a block.
        cache: `none`, `prefix` or `dual`.
    """

    size: int
    cache: str

    def open(self, model: Dream, canvas: Canvas) -> Sight:
        return _BlockSight(self, model, canvas)


def window_for(config: GenerationConfig) -> Window:
    """The window that a configuration names."""
    name, parameters = parse_choice(config.window, WINDOWS, "window")
    kinds: dict[str, Callable[..., Window]] = {
        "whole": Whole,
        "blocks": partial(Blocks, cache="none"),
        "blocks-prefix": partial(Blocks, cache="prefix"),
        "blocks-dual": partial(Blocks, cache="dual"),
        "sliding": Sliding,
    }
    return kinds[name](**parameters)


class _WholeSight:
    def __init__(self, model: Dream, canvas: Canvas):
        self._model = model
        self._positions: Positions = 0
        self._mask: mx.array | None = None
        if canvas.padding.any():
            self._positions, self._mask = left_padded(mx.array(canvas.padding), canvas.tokens.shape[1])
        self._mask_id = canvas.mask_id

    def look(self, tokens: mx.array, known: NDArray[np.int32], *, every: bool = False) -> View:
        positions, valid = masked_first(known == self._mask_id)
        length = known.shape[1]
        if not every:
            # Position i is predicted by row i - 1, and position 0, as in the reference, by row 0.
            left = mx.array(np.maximum(positions - 1, 0))
            return View(positions, valid, self._model(tokens, rows=left, positions=self._positions, mask=self._mask), length)
        logits = self._model(tokens, positions=self._positions, mask=self._mask)
        logits = mx.concatenate([logits[:, :1], logits[:, :-1]], axis=1)  # [B, L, V]
        return View(positions, valid, mx.take_along_axis(logits, mx.array(positions)[..., None], axis=1), length, logits)


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


class _SlidingSight(_KeptSight):
    def __init__(self, window: Sliding, model: Dream, canvas: Canvas):
        super().__init__(model, canvas)
        self._window = window
        self._settled = ~self._real  # padding is never forwarded: it must not hold the window open
        self._masks_at_refresh: int | None = None

    def _choose(self, masked: NDArray[np.bool_]) -> _Choice:
        self._refresh(int(masked.sum()))
        at, length = np.arange(masked.shape[1]), masked.shape[1]
        has_mask = masked.any(axis=1, keepdims=True)
        first = np.where(has_mask, masked.argmax(axis=1, keepdims=True), length)  # [B, 1]
        stale = np.where(self._settled, length, at).min(axis=1, keepdims=True)
        start = np.minimum(stale, first - 1)
        end = first + self._window.width
        shown = (at >= start) & (at < end + self._window.suffix)
        # A row that has no mask left only keeps the others company, with its last position.
        forwarded = self._real & shown & has_mask | (at == length - 1)
        visible = forwarded | self._settled
        self._settled |= forwarded & ~masked
        return _Choice(forwarded, masked & (at < end), visible)

    def _refresh(self, masks: int) -> None:
        if self._masks_at_refresh is None:
            self._masks_at_refresh = masks
        if self._window.refresh and self._masks_at_refresh - masks >= self._window.refresh:
            self._masks_at_refresh = masks
            self._settled = ~self._real


class _BlockSight(_KeptSight):
    def __init__(self, window: Blocks, model: Dream, canvas: Canvas):
        super().__init__(model, canvas)
        self._cache = window.cache
        # Masks in the prompt make a block of their own.
        self._starts = np.array([0, *range(canvas.start, canvas.tokens.shape[1], window.size)])
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
