"""Gradient checkpointing: activations of the layers and the head are recomputed when gradients need them.

This needs memory for the activations of one layer instead of all, for about a third more time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..models.kv import Cache
from ..models.rotary import Turns
from ..models.transformer import DiffusionModel, Layer

HEAD_ROWS = 128  # rows of logits to hold at a time


class Recomputed(Layer):
    """A layer that keeps only its input for the gradient."""

    def __call__(
        self, x: mx.array, layer: int, positions: Turns, mask: mx.array | None, kv: Cache, rows: mx.array | None = None
    ) -> mx.array:
        def forward(trained: Any, x: mx.array) -> mx.array:
            self.update(trained)
            return Layer.__call__(self, x, layer, positions, mask, kv, rows)

        return mx.checkpoint(forward)(self.trainable_parameters(), x)


def recompute_layers(model: DiffusionModel) -> None:
    """Turn the model's layers into `Recomputed` ones; weights and names stay."""
    for layer in model.layers:
        layer.__class__ = Recomputed


def recomputes(model: DiffusionModel) -> bool:
    return isinstance(model.layers[0], Recomputed)


@contextmanager
def computed_once(model: DiffusionModel) -> Iterator[None]:
    """Within this context no layer is `Recomputed`: for forwards with a K/V cache and no gradient."""
    again = recomputes(model)
    for layer in model.layers:
        layer.__class__ = Layer
    try:
        yield
    finally:
        if again:
            recompute_layers(model)


def cross_entropies(model: DiffusionModel, rows: mx.array, targets: mx.array, spread: mx.array | None = None) -> mx.array:
    """Cross-entropies `[M]` between hidden rows `[M, D]` and target ids `[M]`.

    If the layers are `Recomputed`, so is the head, `HEAD_ROWS` rows at a time.

    Args:
        spread: `[M]`, label smoothing: the share of each target spread over all tokens; None or size 0 for none.
    """

    head: list[nn.Module] = [model.model.norm]
    head.append(model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head)

    def of_piece(start: int, size: int) -> mx.array:
        def forward(trained: list[Any], rows: mx.array) -> mx.array:
            for module, weights in zip(head, trained, strict=True):
                module.update(weights)
            logits = model.logits(rows[None])[0].astype(mx.float32)  # [M, V]
            piece = slice(start, start + size)
            plain = nn.losses.cross_entropy(logits, targets[piece])
            if spread is None or not spread.size:
                return plain
            of_all = mx.logsumexp(logits, axis=-1) - logits.mean(axis=-1)  # the mean cross-entropy over all tokens
            return plain + spread[piece] * (of_all - plain)

        computed = mx.checkpoint(forward) if recomputes(model) else forward
        return computed([module.trainable_parameters() for module in head], rows[start : start + size])

    if not recomputes(model):
        return of_piece(0, len(targets))
    return mx.concatenate([of_piece(start, HEAD_ROWS) for start in range(0, len(targets), HEAD_ROWS)])
