"""An Apple-silicon native runtime for diffusion code models.

>>> from mlx_diffucoder import GenerationConfig, generate, load
>>> model, tokenizer = load("pocket")
>>> print(generate(model, tokenizer, "Implement process(k): return whether k is a prime number."))

Names are imported when they are first used, so that `diffucode --help` waits for none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import GenerationConfig, ModelConfig
    from .denoise import Hooks
    from .errors import DiffucoderError
    from .filling import Filled, fill, infill
    from .generation import generate, generate_batch, stream_batch, stream_generate
    from .loading import load
    from .model import Dream
    from .tokenizer import Tokenizer
    from .trace import Step

__version__ = "0.1.0"

__all__ = [
    "DiffucoderError",
    "Dream",
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

_ROOMS = {
    "DiffucoderError": "errors",
    "Dream": "model",
    "Filled": "filling",
    "GenerationConfig": "config",
    "Hooks": "denoise",
    "ModelConfig": "config",
    "Step": "trace",
    "Tokenizer": "tokenizer",
    "fill": "filling",
    "generate": "generation",
    "generate_batch": "generation",
    "infill": "filling",
    "load": "loading",
    "stream_batch": "generation",
    "stream_generate": "generation",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
