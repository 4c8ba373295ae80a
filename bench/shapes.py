"""Shapes of models, for work that needs no weights."""

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.models.base import ModelConfig

BITS = (2, 3, 4, 5, 6, 8, 16)
"""The widths of a weight: those that MLX quantizes to, and 16 for floats."""

SHAPES: dict[str, ModelConfig] = {
    "7b": ModelConfig(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        mask_token_id=151_666,
    )
}
"""DiffuCoder-7B's."""


def dimensions(config: ModelConfig) -> dict[str, int | bool]:
    """The dimensions that the time of a forward depends on."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def parameters(config: ModelConfig) -> int:
    """The number of parameters of a model of this shape."""
    width, inner = config.hidden_size, config.intermediate_size
    kv_width = config.num_key_value_heads * config.head_dim
    layer = 2 * width * width + width + 2 * kv_width * (width + 1) + 3 * width * inner + 2 * width
    embeddings = (1 if config.tie_word_embeddings else 2) * config.vocab_size * width
    return config.num_hidden_layers * layer + width + embeddings


def bits_per_weight(bits: int) -> float:
    """Bits a weight with the scales: half a bit more for quantized weights in groups of 64, none for floats (16).

    Raises:
        BenchError: MLX cannot quantize to so many bits.
    """
    if bits not in BITS:
        raise BenchError(f"--bits must be one of {', '.join(map(str, BITS))}, not {bits}", field="--bits")
    return bits + 0.5 if bits < 16 else bits
