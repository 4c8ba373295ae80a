"""What a shell offers behind a flag; where nothing of it begins so, it offers files."""

from collections.abc import Callable, Iterable

from ..choices import RULES, WINDOWS
from ..config import ALGORITHMS, PRESETS

DTYPES = ("float32", "float16", "bfloat16")
METHODS = ("sft", "coupled-grpo")
"""Of training."""


def among(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Completes to one of some names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def model(incomplete: str) -> list[str]:
    """The bundled model, the default one, and those in the Hub's cache."""
    from ..loading import known_models

    return among(known_models())(incomplete)


FIELDS = {"rule": among(RULES), "window": among(WINDOWS), "alg": among(ALGORITHMS)}
"""By field of `GenerationConfig`."""
preset = among(PRESETS)
dtype = among(DTYPES)
