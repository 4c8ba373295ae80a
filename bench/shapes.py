"""Shapes of models, for work that needs no weights."""

from mlx_diffucoder.catalogue import BITS, CATALOGUE, QWEN_7B
from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.models.base import ModelConfig

SHAPES = {"7b": CATALOGUE[0]} | {one.name.lower(): one for one in CATALOGUE if one.config is not QWEN_7B}
"""Shape name -> a model that has this shape."""


def dimensions(config: ModelConfig) -> dict[str, int | bool]:
    """The dimensions that the time of a forward depends on."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    return {name: getattr(config, name) for name in (*names, "tie_word_embeddings")}


def bits_per_weight(bits: int) -> float:
    """Bits a weight with the scales: half a bit more for quantized weights in groups of 64, none for floats (16).

    Raises:
        BenchError: MLX cannot quantize to so many bits.
    """
    if bits not in BITS:
        raise BenchError(f"--bits must be one of {', '.join(map(str, BITS))}, not {bits}", field="--bits")
    return bits + 0.5 if bits < 16 else bits
