"""The self-test of `diffucode doctor`: compute recorded answers of the bundled checkpoint again on MLX's default device.

`reference.safetensors` holds them, made by `bench/studies/make_reference.py` with an independent model in float64. The error of
logits is the largest difference as a share of the largest logit. The tolerances are several times what was found on MLX's CPU
backend (float32 7e-7, float16 5e-4, bfloat16 5e-3, quantized in float32 9e-7), with a margin for GPUs: on some, MLX multiplies
float32 in TF32 (1e-4 when simulated). They were not tried on a GPU. A wrong kernel is off by far more.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffucoder.arrays import from_numpy
from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import DiffucoderError
from mlx_diffucoder.generation import stream_generate
from mlx_diffucoder.loading import DTYPES, POCKET, load
from mlx_diffucoder.models.transformer import DiffusionModel

FILE = Path(__file__).parent / "reference.safetensors"
CANVASES, ANSWERS = 2, 3
"""How many of each the file holds: canvases with logits, and answers."""
QUANTIZED = {"8 bits": 8, "4 bits": 4}
"""The quantized weights that the file has logits of, by name, and their bits."""
FLOAT32, FLOAT32_TF32, FLOAT16, BFLOAT16 = 1e-4, 2e-3, 5e-3, 4e-2
QUANTIZED_FLOAT32, QUANTIZED_FLOAT16 = 1e-2, 3e-2
"""The largest errors that pass, by the dtype that is computed in."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One computation, and how far its result is from the reference.

    Attributes:
        error: the largest difference of logits as a share of the largest logit, or the number of tokens that differ.
        allowed: the largest error that passes.
        problem: MLX's message if it could not compute at all.
    """

    name: str
    error: float
    allowed: float
    seconds: float
    problem: str | None = None

    @property
    def right(self) -> bool:
        return self.error <= self.allowed  # false for NaN

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        error = self.error if math.isfinite(self.error) else None
        return {"name": self.name, "right": self.right, **asdict(self), "error": error}

    def found(self) -> str:
        """The error and the largest one that passes, for people."""
        if self.problem:
            return self.problem
        if self.allowed:
            return f"{self.error:.1e} of the largest logit, {self.allowed:.0e} allowed"
        return f"{self.error:.0f} tokens differ"


def self_test(name: str | os.PathLike[str] = POCKET) -> Iterator[Check]:
    """Run every check and yield its result; on a CPU, where some take minutes, only the cheap ones.

    Args:
        name: the checkpoint; the reference is that of `pocket`.
    """
    arrays: Any = mx.load(str(FILE))
    reference = {key: np.array(value) for key, value in arrays.items()}
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    float32 = FLOAT32_TF32 if on_gpu and os.environ.get("MLX_ENABLE_TF32") != "0" else FLOAT32
    for dtype, allowed in (("float32", float32), ("float16", FLOAT16), ("bfloat16", BFLOAT16)):
        yield _logits(f"logits in {dtype}", reference, "float32", allowed, partial(_model, name, dtype))
    dtypes = {"float32": QUANTIZED_FLOAT32} | ({"float16": QUANTIZED_FLOAT16} if on_gpu else {})
    for kind, bits in QUANTIZED.items():
        for dtype, allowed in dtypes.items():
            yield _logits(f"logits of {kind} in {dtype}", reference, kind, allowed, partial(_quantized, name, bits, dtype))
    for number in range(ANSWERS if on_gpu else 1):
        yield _tokens(f"answer {number + 1} in float32", reference, number, name)


def _model(name: str | os.PathLike[str], dtype: str) -> DiffusionModel:
    return load(name, dtype=dtype)[0]


def _quantized(name: str | os.PathLike[str], bits: int, dtype: str) -> DiffusionModel:
    model = quantized_on_cpu(_model(name, "float32"), bits)
    model.set_dtype(DTYPES[dtype])
    return model


def quantized_on_cpu(model: DiffusionModel, bits: int) -> DiffusionModel:
    """Quantize the model's layers in place, on the CPU, which gives the same numbers on every machine."""
    with mx.stream(mx.cpu):
        nn.quantize(model, group_size=64, bits=bits)
        mx.eval(model.parameters())
    return model


def _logits(name: str, reference: dict[str, Any], kind: str, allowed: float, build: Callable[[], DiffusionModel]) -> Check:
    """Compare the logits of every canvas with the recorded ones."""

    def error() -> float:
        model, worst = build(), 0.0
        for number in range(CANVASES):
            tokens, rows, right = (reference[f"canvas.{number}.{part}"] for part in ("tokens", "rows", f"logits.{kind}"))
            logits = model(from_numpy(tokens[None]), rows=from_numpy(rows[None]))[0]
            off = np.abs(np.array(logits.astype(mx.float32)) - right).max() / np.abs(right).max()
            worst = max(worst, float(off)) if np.isfinite(off) else math.inf
        return worst

    return checked(name, allowed, error)


def _tokens(name: str, reference: dict[str, Any], number: int, model_name: str | os.PathLike[str]) -> Check:
    """Compare an answer with that of the float64 reference decoder, token by token."""

    def error() -> float:
        model, tokenizer = load(model_name, dtype="float32")
        prompt, output = (reference[f"answer.{number}.{part}"] for part in ("prompt", "output"))
        config = GenerationConfig.preset("exact", max_tokens=len(output))
        *_, last = stream_generate(model, tokenizer, prompt.tolist(), config)
        return float((last.tokens[len(prompt) :] != output).sum())

    return checked(name, 0, error)


def checked(name: str, allowed: float, error: Callable[[], float]) -> Check:
    """The check of a computation that returns its error, or that MLX cannot do."""
    began, problem = time.perf_counter(), None
    try:
        off = error()
    except (RuntimeError, ValueError, DiffucoderError) as failure:  # MLX raises these for a kernel that does not run
        off, problem = math.inf, " ".join(str(failure).split())[:300]
    return Check(name=name, error=off, allowed=allowed, seconds=time.perf_counter() - began, problem=problem)
