"""What masked positions see while a canvas is decoded, in one forward of the whole canvas.

With full attention that is the canvas itself. A block-causal model denoises a block when the blocks before it are
finished, so the canvas is followed by a copy without masks: a block of the canvas sees itself and, in the copy, the blocks
before it; a block of the copy sees itself and those before it (block diffusion's training, arXiv 2503.09573, section 3).
"""

import mlx.core as mx

from .rotary import Positions
from .transformer import DiffusionModel


def with_copy(masked: mx.array, clean: mx.array, block_length: int) -> mx.array:
    """The tokens to forward, int `[B, L]`, or `[B, 2L]` for a block-causal model.

    Args:
        masked: the canvases, int `[B, L]`.
        clean: the same without masks.
        block_length: as in `ModelConfig`; 0 for full attention.
    """
    return mx.concatenate([masked, clean], axis=1) if block_length else masked


def context_of(forwarded: mx.array, block_length: int) -> tuple[Positions, mx.array | None]:
    """The positions and the attention mask of what `with_copy` gives, or of hidden states `[B, 2L, D]` of it."""
    if not block_length:
        return 0, None
    rows, length = forwarded.shape[0], forwarded.shape[1] // 2
    at = mx.arange(length)
    block = at // block_length
    own, before = block[:, None] == block, block[:, None] > block
    of_canvas, of_copy = mx.concatenate([own, before], axis=1), mx.concatenate([mx.zeros_like(own), own | before], axis=1)
    mask = mx.concatenate([of_canvas, of_copy])
    return mx.broadcast_to(mx.concatenate([at, at]), (rows, 2 * length)), mask


def hidden_of(model: DiffusionModel, masked: mx.array, clean: mx.array) -> mx.array:
    """Hidden states `[B, L, D]` of canvases `[B, L]` as decoding sees them; `clean` as for `with_copy`."""
    tokens = with_copy(masked, clean, model.config.block_length)
    return model.model(tokens, *context_of(tokens, model.config.block_length), None)[:, : masked.shape[1]]
