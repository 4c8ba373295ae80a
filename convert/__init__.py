"""A Hugging Face folder in, an MLX folder out.

Installed as `mlx_diffucoder.convert`. mlx-lm quantizes and defines the output layout. This package adds
streaming, so that any machine can convert a model of any size, and a checkpoint's tokenizer and checks.
"""

from .config import ConvertConfig
from .converter import convert, make_plan
from .hub import upload_folder
from .plan import Plan, Width

__all__ = ["ConvertConfig", "Plan", "Width", "convert", "make_plan", "upload_folder"]
