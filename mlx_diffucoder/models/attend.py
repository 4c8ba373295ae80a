"""Attention of queries to all keys, by the kernels that MLX has.

On Metal one fused kernel takes up to 8 queries, if they times the heads that share keys are at most 32; another takes 9 or more.
Elsewhere scores are computed for every pair of a query and a key, so their memory grows with the square of a long prompt.
"""

import mlx.core as mx

from ..device import on_gpu, on_metal

FUSED_ROWS = 9
"""The fewest queries that the kernel for many takes."""
FUSED_DIMS = (64, 80, 128)
"""The widths of a head that it takes."""
LONG, CHUNK = 512, 32
"""Queries from which on they go in chunks, where no kernel is fused, and the queries of a chunk."""


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """`[B, heads, L, head_dim]`; arguments as in `mx.fast.scaled_dot_product_attention`, the mask bool with 2 axes or more."""
    heads, rows, head_dim = queries.shape[1:]

    def part(start: int, end: int) -> mx.array:
        shown = mask[..., start:end, :] if mask is not None and mask.shape[-2] > 1 else mask
        scale = head_dim**-0.5
        return mx.fast.scaled_dot_product_attention(queries[:, :, start:end], keys, values, scale=scale, mask=shown)

    if falls_between(rows, heads // keys.shape[1], head_dim):
        queries = mx.pad(queries, [(0, 0), (0, 0), (0, FUSED_ROWS - rows), (0, 0)])
        if mask is not None and mask.shape[-2] > 1:
            more = [(0, 0)] * (mask.ndim - 2) + [(0, FUSED_ROWS - rows), (0, 0)]
            mask = mx.pad(mask, more, constant_values=mx.array(True))
        return part(0, FUSED_ROWS)[:, :, :rows]
    if rows <= LONG or (on_gpu() and head_dim in FUSED_DIMS):
        return part(0, rows)
    return mx.concatenate([part(start, start + CHUNK) for start in range(0, rows, CHUNK)], axis=2)


def falls_between(rows: int, group: int, head_dim: int) -> bool:
    """Whether neither of Metal's kernels takes `rows` queries, and one would take 9.

    Attention is then computed in parts, which is slower, and in float16 overflows with a Qwen2's activations.
    """
    return rows < FUSED_ROWS and rows * group > 32 and head_dim in FUSED_DIMS and on_metal()
