"""The options of a conversion, named as in mlx-lm."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import mlx.nn as nn

from mlx_diffucoder.errors import ConfigError, did_you_mean
from mlx_diffucoder.loading import DTYPES
from mlx_diffucoder.quantization import QUANTIZATIONS

from .plan import Widths

RECIPES = ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
"""mlx-lm's mixed recipes: low bits, with more bits for sensitive layers."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """How to convert a checkpoint. The fields are named as mlx-lm's options.

    Attributes:
        quantize: quantize every layer whose width the group size divides.
        q_bits, q_group_size: None uses the mode's default (affine: 4 bits in groups of 64).
        q_mode: `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
        quant_predicate: one of `RECIPES`, which choose the bits of each layer.
        widths: how to quantize each layer, by its path; layers that are not named stay unquantized.
        target_bpw: choose the widths for at most this many bits per weight, over the whole model.
        calibrate: a JSONL file of texts to measure on, as `read_samples` reads it.
        dequantize: turn a quantized source into floats.
        adapter: an adapter of the model to add to its weights first, as for `load`. A quantized source keeps its widths, and is
            quantized again.
        dtype: dtype of the weights that are not quantized; None uses the one in the source's `config.json`.

    Raises:
        ConfigError: a combination that MLX does not support; it names the field.
    """

    quantize: bool = False
    q_bits: int | None = None
    q_group_size: int | None = None
    q_mode: str = "affine"
    quant_predicate: str | None = None
    widths: Widths | None = None
    target_bpw: float | None = None
    calibrate: str | os.PathLike[str] | None = None
    dequantize: bool = False
    adapter: str | os.PathLike[str] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        self._check_choice("q_mode", QUANTIZATIONS)
        groups, bits = QUANTIZATIONS[self.q_mode]
        self._check_choice("q_bits", bits, f" in mode {self.q_mode}")
        self._check_choice("q_group_size", groups, f" in mode {self.q_mode}")
        self._check_choice("quant_predicate", RECIPES)
        self._check_choice("dtype", DTYPES)
        if self.dequantize and self.quantize:
            raise ConfigError("dequantize and quantize (-q) cannot be combined", field="dequantize")
        for field in ("q_bits", "q_group_size", "quant_predicate", "widths", "target_bpw", "calibrate"):
            if getattr(self, field) is not None and not self.quantize:
                raise ConfigError(f"{field} needs quantize (-q)", field=field)
        if self.q_mode != "affine" and not self.quantize:
            raise ConfigError("q_mode needs quantize (-q)", field="q_mode")
        if self.quant_predicate and self.widths is not None:
            raise ConfigError("quant_predicate and widths both choose the bits; give only one", field="quant_predicate")
        if self.quant_predicate and self.q_mode != "affine":
            raise ConfigError("quant_predicate is for mode affine only", field="quant_predicate")
        if self.q_bits is not None and (self.quant_predicate or self.widths is not None):
            raise ConfigError("q_bits cannot be given where a recipe chooses them", field="q_bits")
        for layer, width in (self.widths or {}).items():
            groups, bits = QUANTIZATIONS.get(width.mode, ((), ()))
            if width.bits not in bits or width.group_size not in groups:
                raise ConfigError(f"widths: {layer} cannot be quantized to {width}", field="widths")
        if self.target_bpw is None:
            if self.calibrate is not None:
                raise ConfigError("calibrate needs target_bpw (--target-bpw), the size to choose for", field="calibrate")
            return
        if not 0 < self.target_bpw < inf:
            raise ConfigError(f"target_bpw must be a number above 0, not {self.target_bpw}", field="target_bpw")
        if self.calibrate is None:
            raise ConfigError("target_bpw needs calibrate (--calibrate TEXTS.jsonl), texts to measure on", field="target_bpw")
        for field in ("q_bits", "q_group_size", "quant_predicate", "widths"):
            if getattr(self, field) is not None:
                raise ConfigError(
                    f"{field} cannot be given with target_bpw (--target-bpw), which chooses the widths", field=field
                )
        if self.q_mode != "affine":
            raise ConfigError("q_mode must be affine with target_bpw (--target-bpw)", field="q_mode")

    def _check_choice(self, field: str, allowed: Any, where: str = "") -> None:
        value = getattr(self, field)
        if value is not None and value not in allowed:
            choices = ", ".join(map(str, sorted(allowed)))
            near = did_you_mean(str(value), map(str, allowed))
            raise ConfigError(f"{field} must be one of {choices}{where}, not {value!r}{near}".replace("'", '"'), field=field)

    @property
    def bits(self) -> int:
        """Bits of a layer for which no recipe chooses them."""
        return self.q_bits or QUANTIZATIONS[self.q_mode][1][0]

    @property
    def group_size(self) -> int:
        """Weights that share a scale, where no recipe chooses it. mlx-lm skips layers whose rows it does not divide."""
        if self.widths and self.q_group_size is None:
            return min(width.group_size for width in self.widths.values())
        return self.q_group_size or QUANTIZATIONS[self.q_mode][0][0]

    def predicate(self, model: nn.Module) -> Callable[[str, nn.Module], bool | dict[str, Any]] | None:
        """mlx-lm's predicate: whether and how to quantize each layer. None quantizes all layers alike."""
        if self.quant_predicate:
            from mlx_lm.convert import mixed_quant_predicate_builder

            return mixed_quant_predicate_builder(recipe=self.quant_predicate, model=model, group_size=self.group_size)  # type: ignore[no-any-return]
        if (widths := self.widths) is not None:
            if unknown := widths.keys() - dict(model.named_modules()).keys():
                raise ConfigError(f"widths: the model has no layer {min(unknown)}", field="widths")
            return lambda name, module: asdict(widths[name]) if name in widths else False
        return None
