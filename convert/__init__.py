"""A Hugging Face folder in, an MLX folder out.

Installed as `mlx_diffucoder.convert`. Quantizing is mlx-lm's, and so is the layout of what is
written; what is ours is that it streams, so that any machine can convert any size, and what a
Dream checkpoint needs: its tokenizer, and its checks.
"""

from .config import ConvertConfig
from .converter import convert, make_plan
from .hub import upload_folder
from .plan import Plan, Width

__all__ = ["ConvertConfig", "Plan", "Width", "convert", "make_plan", "upload_folder"]
