"""An Apple-silicon native runtime for diffusion code models.

>>> from mlx_diffucoder import GenerationConfig, generate, load
>>> model, tokenizer = load("pocket")
>>> print(generate(model, tokenizer, "Implement process(k): return whether k is a prime number."))

Names are imported when they are first used, so that `diffucode --help` waits for none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import GenerationConfig
    from .decoding.reference import Hooks
    from .decoding.result import Step
    from .errors import DiffucoderError
    from .generation import generate, generate_batch, stream_batch, stream_generate
    from .infilling.fill import Filled, fill, infill
    from .loading import load
    from .models.base import ModelConfig
    from .models.transformer import DiffusionModel
    from .tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "DiffucoderError",
    "DiffusionModel",
    "Filled",
    "GenerationConfig",
    "Hooks",
    "ModelConfig",
    "Step",
    "Tokenizer",
    "fill",
    "generate",
    "generate_batch",
    "infill",
    "load",
    "stream_batch",
    "stream_generate",
]

_MODULES = {
    "DiffucoderError": "errors",
    "DiffusionModel": "models.transformer",
    "Filled": "infilling.fill",
    "GenerationConfig": "config",
    "Hooks": "decoding.reference",
    "ModelConfig": "models.base",
    "Step": "decoding.result",
    "Tokenizer": "tokenizer",
    "fill": "infilling.fill",
    "generate": "generation",
    "generate_batch": "generation",
    "infill": "infilling.fill",
    "load": "loading",
    "stream_batch": "generation",
    "stream_generate": "generation",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
