"""Is this machine right? The bundled checkpoint's recorded answers, computed again on MLX's default device.

Logits are held against those of `bench/reference.py`, an independent float64 network: the largest difference, as
a share of the largest logit. The tolerances are several times what was found on MLX's CPU backend (float32
7e-7, float16 5e-4, bfloat16 5e-3, quantized in float32 9e-7), with room for what GPUs do: on some, MLX multiplies
float32 in TF32 (1e-4 when simulated). They were tried on no GPU. A wrong kernel is off by far more.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import DiffucoderError
from mlx_diffucoder.generation import stream_generate
from mlx_diffucoder.loading import DTYPES, POCKET, load
from mlx_diffucoder.models.transformer import DiffusionModel

from .reference import ANSWERS, CANVASES, FILE, QUANTIZED, quantized_on_cpu

FLOAT32, FLOAT32_TF32, FLOAT16, BFLOAT16 = 1e-4, 2e-3, 5e-3, 4e-2
QUANTIZED_FLOAT32, QUANTIZED_FLOAT16 = 1e-2, 3e-2


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was computed, and how far it is from what it should be.

    Attributes:
        error: the largest difference of logits as a share of the largest logit, or how many tokens differ.
        allowed: the largest error that is right.
        problem: what MLX said, where it could not compute at all.
    """

    name: str
    error: float
    allowed: float
    seconds: float
    problem: str | None = None

    @property
    def right(self) -> bool:
        return self.error <= self.allowed  # false for what is no number

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        error = self.error if math.isfinite(self.error) else None
        return {
            "name": self.name,
            "right": self.right,
            "error": error,
            "allowed": self.allowed,
            "seconds": self.seconds,
            "problem": self.problem,
        }

    def found(self) -> str:
        """For people: how far it is off, and how far it may be."""
        if self.problem:
            return self.problem
        if self.allowed:
            return f"{self.error:.1e} of the largest logit, {self.allowed:.0e} allowed"
        return f"{self.error:.0f} tokens differ"


def self_test(name: str | os.PathLike[str] = POCKET) -> Iterator[Check]:
    """Run every check; on a CPU, where some take minutes, only what is cheap there.

    Args:
        name: the checkpoint, which is to be `pocket`.
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


def _logits(name: str, reference: dict[str, Any], kind: str, allowed: float, build: Callable[[], DiffusionModel]) -> Check:
    """The logits of every canvas against the recorded ones."""

    def error() -> float:
        model, worst = build(), 0.0
        for number in range(CANVASES):
            tokens, rows, right = (reference[f"canvas.{number}.{part}"] for part in ("tokens", "rows", f"logits.{kind}"))
            logits = model(mx.array(tokens[None]), rows=mx.array(rows[None]))[0]
            off = np.abs(np.array(logits.astype(mx.float32)) - right).max() / np.abs(right).max()
            worst = max(worst, float(off)) if np.isfinite(off) else math.inf
        return worst

    return _check(name, allowed, error)


def _tokens(name: str, reference: dict[str, Any], number: int, model_name: str | os.PathLike[str]) -> Check:
    """An answer of the float64 reference decoder, token for token."""

    def error() -> float:
        model, tokenizer = load(model_name, dtype="float32")
        prompt, output = (reference[f"answer.{number}.{part}"] for part in ("prompt", "output"))
        config = GenerationConfig.preset("exact", max_tokens=len(output))
        *_, last = stream_generate(model, tokenizer, prompt.tolist(), config)
        return float((last.tokens[len(prompt) :] != output).sum())

    return _check(name, 0, error)


def _check(name: str, allowed: float, error: Callable[[], float]) -> Check:
    began, problem = time.perf_counter(), None
    try:
        off = error()
    except (RuntimeError, ValueError, DiffucoderError) as failure:  # what MLX raises for a kernel that does not run
        off, problem = math.inf, " ".join(str(failure).split())[:300]
    return Check(name=name, error=off, allowed=allowed, seconds=time.perf_counter() - began, problem=problem)
