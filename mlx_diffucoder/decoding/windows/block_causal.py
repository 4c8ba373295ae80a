"""The window of block-causal models: the current block, and the block before it once."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...errors import ConfigError
from ...models.transformer import DiffusionModel
from ..canvas import Canvas
from .base import Forward, ForwardOutput, Part, Window, WindowState, candidates_of, rows_of
from .cache import AppendedKVCache

CHUNK = 512
"""The most positions of known text in one forward; a longer block is one chunk."""


@dataclass(frozen=True)
class BlockCausal(Window):
    """Denoise one block after another; keep the keys and values of finished blocks, which are final.

    Blocks are counted from the text's first token, so that the end of a prompt may share a block with the start of the
    answer. No token sees a later block. So the keys and values of a finished block are exact, and they are computed
    once: in the same forward as the first of the next block, which sees them. A forward has at most two blocks; the
    prompt's whole blocks are forwarded before, in chunks. `plan_forward` shows a step.

    Attributes:
        length: positions in a block.
    """

    name = "block-causal"
    length: int

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return min(prompt + masks, max(2 * self.length, min(prompt, chunk_of(self.length)))), min(self.length, prompt + masks)

    def check(self, model: DiffusionModel) -> None:
        super().check(model)
        if self.length > (context := model.config.max_position_embeddings):
            raise ConfigError(f"window {self} does not fit: the model's context is {context} tokens", field="window")

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return BlockCausalState(canvas, self.length)


def chunk_of(length: int) -> int:
    """The most positions of known text in one forward: whole blocks of `length` positions."""
    return max(length, CHUNK // length * length)


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """One forward, int64 `[B]` each; positions are counted from the first token of each row's text.

    Attributes:
        first: the first position forwarded.
        block: the start of the current block. The positions before it are finished blocks; their K/V are kept.
        end: one past the last position forwarded; `first` where a row forwards nothing.
    """

    first: NDArray[np.int64]
    block: NDArray[np.int64]
    end: NDArray[np.int64]

    @classmethod
    def known(cls, cached: NDArray[np.int64], until: NDArray[np.int64], most: int) -> Self:
        """Forward finished blocks only: the next `most` positions at most."""
        end = np.minimum(cached + most, until)
        return cls(cached, end, np.maximum(end, cached))


def plan_forward(open_masks: NDArray[np.bool_], padding: NDArray[np.int32], cached: NDArray[np.int64], length: int) -> BlockPlan:
    """Plan one forward of the current blocks, and of finished blocks without K/V before them.

    A step with blocks of 4, on a canvas with 6 known tokens (`k`), committed tokens (`c`) and masks (`_`), right after
    its second block was finished:

        position   0         1
                   01234567890123456
        canvas     kkkkkkcc_________
        cached     ####
        forwarded      ########
        kept           ####
        candidates         ####

    Positions 4 to 7 see 0 to 7; positions 8 to 11 see 0 to 11.

    Args:
        open_masks: bool `[B, L]`, as `Canvas.open_masks`. A row without any forwards nothing.
        padding: int32 `[B]`, of the canvas.
        cached: int64 `[B]`, how many positions of each text have K/V.
        length: positions in a block.
    """
    has_mask = open_masks.any(axis=1)
    block = np.where(has_mask, (open_masks.argmax(axis=1) - padding) // length * length, cached)
    end = np.where(has_mask, np.minimum(block + length, open_masks.shape[1] - padding), cached)
    return BlockPlan(cached, block, end)


class BlockCausalState(WindowState):
    """`BlockCausal` at work: the cache, and how much of each text is in it."""

    def __init__(self, canvas: Canvas, length: int):
        self._canvas, self._length = canvas, length
        self._cache = AppendedKVCache(canvas.tokens.shape[1])
        self._cached = np.zeros(len(canvas.tokens), dtype=np.int64)
        self._first = True

    def forward(self, tokens: mx.array, on_host: NDArray[np.int32]) -> Forward:
        canvas, length = self._canvas, self._length
        plan = plan_forward(canvas.open_masks(on_host), canvas.padding, self._cached, length)
        forwarded = 0
        # The whole blocks of the prompt; or those between two masked ones, of a prompt that has masks itself.
        while (plan.block - plan.first > (0 if self._first else length)).any():
            known = BlockPlan.known(plan.first, plan.block, chunk_of(length))
            width = int((known.end - known.first).max())
            mx.eval((yield from self._forward(on_host, known, width)))  # not all chunks in memory at once
            forwarded += width
            plan = plan_forward(canvas.open_masks(on_host), canvas.padding, self._cached, length)
        self._first = False
        width = min(length * (2 if (plan.block > plan.first).any() else 1), on_host.shape[1])
        hidden = yield from self._forward(on_host, plan, width)
        return self._output(on_host, plan, hidden, forwarded + width)

    def _forward(self, on_host: NDArray[np.int32], plan: BlockPlan, width: int) -> Generator[Part, mx.array, mx.array]:
        """The hidden states `[B, width, D]` of the positions from `plan.first` on, in order; keeps the finished blocks' K/V.

        Rows of a forward after `plan.end` are filled up; they see only themselves, and nothing sees them.
        """
        padding = self._canvas.padding[:, None]
        at = plan.first[:, None] + np.arange(width)  # [B, W]
        real = at < plan.end[:, None]
        on_canvas = np.minimum(at + padding, on_host.shape[1] - 1)
        cached = np.arange(on_host.shape[1]) - padding
        slots = self._cache.visible((cached >= 0) & (cached < plan.first[:, None]))
        block = at // self._length
        rows = real[:, None, :] & (block[:, None, :] <= block[:, :, None]) | np.eye(width, dtype=np.bool_)
        seen = np.concatenate([np.broadcast_to(slots[:, None, :], (*rows.shape[:2], slots.shape[1])), rows], axis=-1)
        ids = np.take_along_axis(on_host, on_canvas, axis=1)
        hidden = yield Part(from_numpy(ids), from_numpy(at.astype(np.int32)), from_numpy(seen)[:, None], self._cache)
        self._cache.keep(np.where(at < plan.block[:, None], on_canvas, -1).astype(np.int32))
        self._cached = np.maximum(self._cached, plan.block)
        return hidden

    def _output(self, on_host: NDArray[np.int32], plan: BlockPlan, hidden: mx.array, forwarded: int) -> ForwardOutput:
        first, block, end = (one + self._canvas.padding for one in (plan.first, plan.block, plan.end))
        at = np.arange(on_host.shape[1])
        current = (at >= block[:, None]) & (at < end[:, None])
        masked = current & (on_host == self._canvas.mask_id)
        positions, masked = candidates_of(masked, self._length)
        rows = np.clip(positions - first[:, None], 0, hidden.shape[1] - 1).astype(np.int32)
        span = np.stack([first, end], axis=1).astype(np.int32)
        return ForwardOutput(positions, masked, rows_of(hidden, rows), forwarded, span)
