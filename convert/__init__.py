"""A Hugging Face folder in, an MLX folder out.

Installed as `mlx_diffucoder.convert`. Quantizing and saving are mlx-lm's, and so is the layout of
what is written; what is ours is what a Dream checkpoint needs: its tokenizer, and its checks.
"""

from .converter import ConvertConfig, convert

__all__ = ["ConvertConfig", "convert"]
