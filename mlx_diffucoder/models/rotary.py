"""Rotary positions (RoFormer, arXiv 2104.09864), the two halves of a head rotated against each other.

On a GPU one kernel does it. Elsewhere MLX would compute the angles again for the queries and the keys of every layer, so they
are computed once for each forward.
"""

import math

import mlx.core as mx

Positions = int | mx.array
Angles = tuple[mx.array, mx.array]
"""The cosines and sines of each token, `[B, L, 1, head_dim]`, or `[1, L, 1, head_dim]` for all rows of a batch. The sines of the
first half are negative."""
Turns = Positions | Angles


def angles(positions: Positions, length: int, head_dim: int, base: float) -> Angles:
    """The angles of `length` tokens, `positions` as in `DiffusionModel.__call__`; float32."""
    if isinstance(positions, int) or positions.ndim == 1:
        positions = mx.array(positions).reshape(-1, 1) + mx.arange(length)
    half = head_dim // 2
    frequencies = mx.exp(mx.arange(half, dtype=mx.float32) * (-math.log(base) / half))
    theta = (positions[..., None].astype(mx.float32) * frequencies)[:, :, None]
    cos, sin = mx.cos(theta), mx.sin(theta)
    return mx.concatenate([cos, cos], axis=-1), mx.concatenate([-sin, sin], axis=-1)


def rotate(x: mx.array, positions: Turns, base: float) -> mx.array:
    """`[B, L, heads, head_dim]` -> `[B, heads, L, head_dim]`, rotated by the positions."""
    B, L, heads, dim = x.shape
    if isinstance(positions, tuple):
        cos, sin = (one.astype(x.dtype) for one in positions)
        first, second = mx.split(x, 2, axis=-1)
        return (x * cos + mx.concatenate([second, first], axis=-1) * sin).transpose(0, 2, 1, 3)
    if isinstance(positions, int) or positions.ndim == 1:
        x = x.transpose(0, 2, 1, 3)
        return mx.fast.rope(x, dim, traditional=False, base=base, scale=1.0, offset=positions)
    # The kernel takes one offset a row, so every token becomes a row.
    x, positions = x.reshape(B * L, heads, 1, dim), positions.reshape(-1)
    rotated = mx.fast.rope(x, dim, traditional=False, base=base, scale=1.0, offset=positions)
    return rotated.reshape(B, L, heads, dim).transpose(0, 2, 1, 3)


def of_rows(positions: Turns, rows: mx.array) -> Turns:
    """The positions, or the angles, of some tokens `[R]`."""
    if isinstance(positions, tuple):
        return positions[0][:, rows], positions[1][:, rows]
    if isinstance(positions, int) or positions.ndim == 1:
        return mx.array(positions).reshape(-1, 1) + rows
    return positions[:, rows]
