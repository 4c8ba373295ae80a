"""Shapes of models, for work that needs no weights."""

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.models.base import Family, ModelConfig
from mlx_diffucoder.models.coda import CODA
from mlx_diffucoder.models.dream import DREAM
from mlx_diffucoder.models.llada import LLADA
from mlx_diffucoder.models.open_dcoder import OPEN_DCODER
from mlx_diffucoder.models.sdar import SDAR
from mlx_diffucoder.models.stable_diffcoder import STABLE_DIFFCODER

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
    ),
    "stable-diffcoder-8b": ModelConfig(
        vocab_size=155_136,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        mask_token_id=5,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        qkv_bias=False,
        block_length=4,
    ),
    "sdar-8b": ModelConfig(
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        mask_token_id=151_669,
        max_position_embeddings=32768,
        head_dim=128,
        qkv_bias=False,
        qk_norm=True,
        block_length=4,
    ),
    "coda-1.7b": ModelConfig(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        mask_token_id=151_669,
        max_position_embeddings=40960,
        head_dim=128,
        qkv_bias=False,
        qk_norm=True,
    ),
    "llada-8b": ModelConfig(
        vocab_size=126_464,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        mask_token_id=126_336,
        max_position_embeddings=4096,
        rope_theta=500_000.0,
        rms_norm_eps=1e-5,
        qkv_bias=False,
    ),
    "open-dcoder-0.5b": ModelConfig(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        mask_token_id=151_665,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
}
"""Shapes by name: DiffuCoder-7B's, and those of models of other families."""
FAMILIES: dict[str, Family] = {
    "7b": DREAM,
    "stable-diffcoder-8b": STABLE_DIFFCODER,
    "sdar-8b": SDAR,
    "coda-1.7b": CODA,
    "llada-8b": LLADA,
    "open-dcoder-0.5b": OPEN_DCODER,
}
MODELS = {
    "7b": "DiffuCoder-7B",
    "stable-diffcoder-8b": "Stable-DiffCoder-8B",
    "sdar-8b": "SDAR-8B",
    "coda-1.7b": "CoDA-1.7B",
    "llada-8b": "LLaDA-8B",
    "open-dcoder-0.5b": "Open-dCoder-0.5B",
}


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
