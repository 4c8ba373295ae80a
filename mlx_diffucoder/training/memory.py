"""Upper bound on the memory of training, computed from shapes before anything is read.

What a layer keeps for its gradient is counted operation by operation from `models/transformer.py`. Temporary
arrays were fitted to MLX's measured peaks at small shapes (`tests/training/test_memory.py` compares). Not
covered: allocator overhead, and other programs.
"""

from dataclasses import asdict, dataclass

import mlx.nn as nn
import mlx.optimizers as optim

from ..memory import bytes_of
from ..models.transformer import DiffusionModel
from .recompute import HEAD_ROWS, recomputes

FLOAT = 4  # bytes of a float32: logits and adapter arithmetic
LOGITS = 6  # copies of the logits held by cross-entropy and its gradient


@dataclass(frozen=True)
class Memory:
    """Memory by purpose, in bytes.

    Attributes:
        weights: as stored, adapters included.
        gradients: of the trained weights; twice if batches are accumulated.
        optimizer: its state.
        activations: kept by the layers for the gradient, plus the temporary arrays of one layer.
        logits: of the rows in the loss.
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
    """The memory that a step takes at most, for a model set up for training.

    Args:
        optimizer: new; its state is described lazily, not allocated.
        batch, length: canvases per forward, and the longest canvas in tokens.
        lanes: batches computed in parallel.
    """
    trained = bytes_of(model.trainable_parameters())
    optimizer.init(model.trainable_parameters())
    rows, side_by_side = length * (batch + 1) // 2, min(lanes, accumulate)  # timesteps are stratified over (0, 1]
    length *= 2 if model.config.block_length else 1  # a copy without masks follows each canvas
    tokens = batch * length
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
    """Bytes that the layers keep for their gradients, plus the temporary arrays of one backward pass."""
    config, size = model.config, model.model.norm.weight.dtype.size
    width, inner = config.hidden_size, config.intermediate_size
    scores = config.num_attention_heads * length
    kept = [_kept(model, layer, tokens, length) for layer in model.layers]
    moment = size * tokens * (10 * inner + 2 * width + 2 * scores)
    if recomputes(model):
        return 2 * size * tokens * width * len(kept) + max(kept) + moment
    return sum(kept) + moment


def _kept(model: DiffusionModel, layer: nn.Module, tokens: int, length: int) -> int:
    """Bytes that one layer keeps."""
    config, size = model.config, model.model.norm.weight.dtype.size
    width, inner = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * config.head_dim
    # Residuals and norms 4, queries before and after RoPE 2, attention output 2; keys, values; gate, up, silu, product; scores.
    numbers = 8 * width + 2 * kv + 4 * inner + config.num_attention_heads * length
    total = size * tokens * numbers
    for module in layer.modules():
        if "lora_a" not in module:
            continue
        into, rank = module.lora_a.shape
        out = module.lora_b.shape[1]
        total += FLOAT * tokens * rank
        if size != FLOAT:
            total += FLOAT * tokens * into  # a copy of the input in the adapter's dtype
        if "m" in module:  # DoRA: the output before scaling, and the dequantized weights
            total += size * tokens * out
            total += size * into * out if isinstance(module.linear, nn.QuantizedLinear) else 0
    return total
