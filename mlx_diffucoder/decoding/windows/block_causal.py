"""The window of block-causal models: the current block, and the block before it once."""

from collections.abc import Generator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class BlockPlan:
    """One forward.

    Attributes:
        first: the first position forwarded.
        block: the start of the current block. The positions before it are finished blocks; their K/V are kept.
        end: one past the last position forwarded; `first` where nothing is.
    """

    first: int
    block: int
    end: int


def plan_forward(open_masks: NDArray[np.bool_], cached: int, length: int) -> BlockPlan:
    """Plan one forward of the current block, and of finished blocks without K/V before it.

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
        open_masks: bool `[L]`, as `Canvas.open_masks`; without any nothing is forwarded.
        cached: how many positions have K/V.
        length: positions in a block.
    """
    if not open_masks.any():
        return BlockPlan(cached, cached, cached)
    block = int(open_masks.argmax()) // length * length
    return BlockPlan(cached, block, min(block + length, len(open_masks)))


class BlockCausalState(WindowState):
    """`BlockCausal` at work: the cache, and how much of the text is in it."""

    def __init__(self, canvas: Canvas, length: int):
        self._canvas, self._length = canvas, length
        self._cache = AppendedKVCache(len(canvas.tokens))
        self._cached, self._first = 0, True

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        length, open_masks, forwarded = self._length, self._canvas.open_masks(tokens), 0
        plan = plan_forward(open_masks, self._cached, length)
        # The whole blocks of the prompt; or those between two masked ones, of a prompt that has masks itself.
        while plan.block - plan.first > (0 if self._first else length):
            end = min(plan.first + chunk_of(length), plan.block)
            mx.eval((yield from self._forward(tokens, BlockPlan(plan.first, end, end), end - plan.first)))  # one chunk in memory
            forwarded += end - plan.first
            plan = plan_forward(open_masks, self._cached, length)
        self._first = False
        width = min(length * (2 if plan.block > plan.first else 1), len(tokens))
        hidden = yield from self._forward(tokens, plan, width)
        return self._output(tokens, plan, hidden, forwarded + width)

    def _forward(self, tokens: NDArray[np.int32], plan: BlockPlan, width: int) -> Generator[Part, mx.array, mx.array]:
        """The hidden states `[1, width, D]` of the positions from `plan.first` on, in order; keeps the finished blocks' K/V.

        Rows of a forward after `plan.end` are filled up; they see only themselves, and nothing sees them.
        """
        at = plan.first + np.arange(width)  # [W]
        on_canvas, block = np.minimum(at, len(tokens) - 1), at // self._length
        slots = self._cache.visible(np.arange(len(tokens)) < plan.first)
        rows = (at < plan.end) & (block <= block[:, None]) | np.eye(width, dtype=np.bool_)
        seen = np.concatenate([np.broadcast_to(slots, (width, len(slots))), rows], axis=1)
        hidden = yield Part(
            from_numpy(tokens[None, on_canvas]), from_numpy(at[None].astype(np.int32)), from_numpy(seen)[None, None], self._cache
        )
        self._cache.keep(np.where(at < plan.block, on_canvas, -1).astype(np.int32))
        self._cached = max(self._cached, plan.block)
        return hidden

    def _output(self, tokens: NDArray[np.int32], plan: BlockPlan, hidden: mx.array, forwarded: int) -> ForwardOutput:
        at = np.arange(len(tokens))
        current = (at >= plan.block) & (at < plan.end)
        positions, masked = candidates_of(current & (tokens == self._canvas.mask_id), self._length)
        rows = np.clip(positions - plan.first, 0, hidden.shape[1] - 1)
        return ForwardOutput(positions, masked, rows_of(hidden, rows), forwarded, (plan.first, plan.end))
