"""What training takes at most, computed from shapes before anything is read.

The counts of what a layer keeps for its gradient are those of `model.py`, operation by operation; those of what
is alive for a moment were fitted to MLX's measured peaks at small shapes (`tests/training/test_memory.py`
compares). Not covered: what an allocator loses between arrays, and other programs.
"""

from dataclasses import asdict, dataclass
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from ..models.transformer import DiffusionModel
from .recompute import HEAD_ROWS, recomputes

FLOAT = 4  # bytes: of logits, and of adapters' arithmetic
LOGITS = 6  # copies of the logits that cross-entropy and its gradient hold


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: as they are stored, adapters included.
        gradients: of what is trained; twice where batches are accumulated.
        optimizer: the averages that it keeps.
        activations: what the layers keep for the gradient, and what one holds for a moment.
        logits: of the rows that are read.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def to_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def memory_to_train(
    model: DiffusionModel, optimizer: optim.Optimizer, *, batch: int, length: int, accumulate: int = 1, lanes: int = 1
) -> Memory:
    """What a step takes at most, of a model as it is going to be trained.

    Args:
        optimizer: new; what it keeps is asked of it, and not allocated.
        batch, length: canvases forwarded together, and the longest of them.
        lanes: batches computed side by side.
    """
    trained = bytes_of(model.trainable_parameters())
    optimizer.init(model.trainable_parameters())
    tokens, side_by_side = batch * length, min(lanes, accumulate)
    rows = length * (batch + 1) // 2  # timesteps stand in equal parts of (0, 1]
    if recomputes(model):
        rows = min(rows, HEAD_ROWS)
    return Memory(
        weights=bytes_of(model.parameters()),
        gradients=trained * (1 if accumulate == 1 else 1 + side_by_side),
        optimizer=bytes_of(optimizer.state),
        activations=side_by_side * _activations(model, tokens, length),
        logits=side_by_side * rows * model.config.vocab_size * FLOAT * LOGITS,
    )


def _activations(model: DiffusionModel, tokens: int, length: int) -> int:
    """Of the layers: what each keeps for its gradient, and what the backward pass of one holds for a moment."""
    config, size = model.config, model.model.norm.weight.dtype.size
    width, inner = config.hidden_size, config.intermediate_size
    scores = config.num_attention_heads * length
    kept = [_kept(model, layer, tokens, length) for layer in model.layers]
    moment = size * tokens * (10 * inner + 2 * width + 2 * scores)
    if recomputes(model):
        return 2 * size * tokens * width * len(kept) + max(kept) + moment
    return sum(kept) + moment


def _kept(model: DiffusionModel, layer: nn.Module, tokens: int, length: int) -> int:
    """Of one layer, in bytes."""
    config, size = model.config, model.model.norm.weight.dtype.size
    width, inner = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * config.head_dim
    # Residuals and norms 4, queries turned and not 2, attention's sum 2; keys, values; gate, up, silu, product; scores.
    numbers = 8 * width + 2 * kv + 4 * inner + config.num_attention_heads * length
    total = size * tokens * numbers
    for module in layer.modules():
        if "lora_a" not in module:
            continue
        into, rank = module.lora_a.shape
        out = module.lora_b.shape[1]
        total += FLOAT * tokens * rank
        if size != FLOAT:
            total += FLOAT * tokens * into  # the input once more, in the adapter's type
        if "m" in module:  # DoRA's own: the output before it is scaled, and weights that were packed
            total += size * tokens * out
            total += size * into * out if isinstance(module.linear, nn.QuantizedLinear) else 0
    return total


def bytes_of(tree: Any) -> int:
    arrays: Any = tree_flatten(tree)
    return sum(value.nbytes for _, value in arrays)
