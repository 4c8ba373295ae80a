"""A network's outputs at masked positions, with its weights held whole or one layer at a time.

A forward keeps the last layer's row that predicts each masked position, not the logits: at 7B a row of
logits takes 600 kB, a hidden row 7 kB. The head computes logits from the rows on request.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..arrays import from_numpy
from ..device import synchronized
from ..models.context import context_of, with_copy
from ..models.transformer import DiffusionModel, Layer
from .masking import Masked, batches

M = TypeVar("M", bound=nn.Module)
Advance = Callable[[int], None]
"""Called with the number of (canvas, layer) pairs that were just computed."""

MOST_HELD = 2**15  # positions between two layers; at 7B 235 MB in 16 bits


@dataclass(frozen=True, eq=False)
class Outputs:
    """The hidden rows that predict the masked positions of some canvases, in order.

    Attributes:
        rows: `[n, D]` each; the pieces may have any length.
        head: maps rows `[n, D]` to logits `[n, V]`. It holds the head's weights, not those of the layers.
    """

    rows: tuple[mx.array, ...]
    head: Callable[[mx.array], mx.array]

    def logits(self, most: int) -> Iterator[mx.array]:
        """The logits of all rows, at most `most` rows `[<= most, V]` at a time."""
        for piece in self.rows:
            for start in range(0, len(piece), most):
                yield self.head(piece[start : start + most])


def outputs(model: DiffusionModel, canvases: Sequence[Masked], advance: Advance | None = None) -> Outputs:
    """The outputs of a model whose weights are in memory.

    The head is the model's current one: modules that replace it later change nothing.
    """
    return outputs_by_layer(lambda: model, canvases, advance, keep=True)


def outputs_by_layer(
    opened: Callable[[], DiffusionModel],
    canvases: Sequence[Masked],
    advance: Advance | None = None,
    *,
    keep: bool = False,
    most_held: int = MOST_HELD,
) -> Outputs:
    """As `outputs`, for a model that may be larger than memory. The numbers are the same.

    All canvases of a group go through one layer, then through the next. Each layer is read when the canvases reach
    it and dropped afterwards, so at most one is in memory. The weights are read once for every `most_held` positions.

    Args:
        opened: returns the model with no weights read yet, as `load(..., lazy=True)` does. It is called
            several times.
        keep: keep each layer in memory.
    """
    rows: list[mx.array] = []
    with synchronized():
        for group in _groups(list(batches(canvases)), most_held):
            model = opened()
            hidden = [tokens_of(batch, model.config.block_length) for batch in group]
            replace_each(hidden, model.model.embed_tokens)
            if not keep:
                model.model.embed_tokens = None  # type: ignore[assignment]  # frees the memory: nothing else holds it
            for index in range(len(model.layers)):
                layer = _unpacked(model.layers[index], hidden[0].dtype)
                if not keep:
                    model.layers[index] = None  # type: ignore[call-overload]
                replace_each(hidden, partial(through, layer, index, model.config.block_length))
                del layer
                if not keep:
                    mx.clear_cache()
                if advance:
                    advance(sum(map(len, group)))
            for one, batch in zip(hidden, group, strict=True):
                rows.append(predicting_rows(one, batch, model.shift))
                mx.eval(rows[-1])
    return Outputs(tuple(rows), head_of(opened(), rows[0].dtype))


def through(layer: Layer, index: int, block_length: int, hidden: mx.array) -> mx.array:
    """The hidden states of canvases after a layer."""
    return layer(hidden, index, *context_of(hidden, block_length), None)


def replace_each(values: list[mx.array], function: Callable[[mx.array], mx.array]) -> None:
    """Replace each value by the function's result, one at a time."""
    for place, value in enumerate(values):
        values[place] = function(value)
        mx.eval(values[place])


def head_of(model: DiffusionModel, dtype: mx.Dtype) -> Callable[[mx.array], mx.array]:
    norm = model.model.norm
    linear = (
        _unpacked(model.model.embed_tokens, dtype).as_linear
        if model.config.tie_word_embeddings
        else _unpacked(model.lm_head, dtype)
    )
    return lambda rows: linear(norm(rows))


def _unpacked(module: M, dtype: mx.Dtype) -> M:
    """The module itself. On a CPU, where MLX's quantized products are slow, a dequantized copy, equal up to rounding."""
    if mx.default_device().type != mx.cpu or not any(hasattr(part, "bits") for part in module.modules()):
        return module
    from mlx_lm.utils import dequantize_model

    plain = dequantize_model(nn.Sequential(copy.deepcopy(module)))
    plain.set_dtype(dtype)
    return plain.layers[0]


def tokens_of(batch: Sequence[Masked], block_length: int) -> mx.array:
    """What to forward of a batch of L tokens, as `models.context.with_copy`: int32 `[B, L]` or `[B, 2L]`."""
    masked, clean = (from_numpy(np.stack([getattr(canvas, name) for canvas in batch])) for name in ("tokens", "clean"))
    return with_copy(masked, clean, block_length)


def predicting_rows(hidden: mx.array, batch: Sequence[Masked], shift: int) -> mx.array:
    """`hidden` `[B, L, D]` (or longer) -> `[n, D]`, the rows that predict the masked positions of the batch.

    Args:
        shift: `DiffusionModel.shift`.
    """
    B, L, D = hidden.shape
    at = np.concatenate([row * L + canvas.positions - shift for row, canvas in enumerate(batch)])
    return hidden.reshape(B * L, D)[from_numpy(at)]


def _groups(every: Sequence[list[Masked]], most: int) -> Iterator[list[list[Masked]]]:
    group: list[list[Masked]] = []
    held = 0
    for batch in every:
        size = sum(len(canvas.tokens) for canvas in batch)
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(batch)
        held += size
    if group:
        yield group
