"""Quantized layers, as a checkpoint's `config.json` describes them and its weights have them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mlx.nn as nn

from .errors import CheckpointError

QUANTIZATIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((64, 32, 128), (4, 2, 3, 5, 6, 8)),
    "mxfp4": ((32,), (4,)),
    "mxfp8": ((32,), (8,)),
    "nvfp4": ((16,), (4,)),
}
"""The group sizes and bits of each of MLX's modes, the default first."""
BLOCKS = ("quantization", "quantization_config", "compression_config")
"""Where a `config.json` describes quantization. mlx-lm writes the same block under the first two names."""
FOREIGN = (".qweight", ".qzeros", ".absmax", ".weight_scale", ".weight_scale_inv", ".weight_packed", ".SCB")
"""Endings of weights that other programs quantized: GPTQ and AWQ, bitsandbytes, FP8, compressed-tensors."""
ORIGINAL = "take the original checkpoint, and quantize it with `diffucode convert`"


def quantize_structure(model: nn.Module, raw: Mapping[str, Any], stored: Collection[str], path: Path) -> None:
    """Replace the layers whose weights are quantized by quantized ones.

    Args:
        raw: `config.json`, parsed.
        stored: the network's names of the weights that the checkpoint has.
        path: the file that `raw` is from.

    Raises:
        CheckpointError: the quantization is not MLX's, or `config.json` and the weights contradict each other.
    """
    quantization = quantization_of(raw, path)
    if foreign := sorted(name for name in stored if name.endswith(FOREIGN)):
        raise CheckpointError(f"{path.parent}: {foreign[0]} is a weight that another program than MLX quantized; {ORIGINAL}")
    quantized = {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}
    if quantization is None:
        if quantized:
            raise CheckpointError(f"{path}: has no quantization block, but the weights are quantized")
        return
    own = {name: entry for name, entry in quantization.items() if isinstance(entry, dict | bool)}
    _check_agrees(own, quantized, stored, path)

    def parameters(name: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or name not in quantized:
            return False
        entry = own.get(name, True)
        return entry if isinstance(entry, dict) else True

    try:
        nn.quantize(
            model,
            group_size=quantization["group_size"],
            bits=quantization["bits"],
            mode=quantization.get("mode", "affine"),
            class_predicate=parameters,
        )
    except (ValueError, TypeError) as error:  # the group size does not divide a row
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: the quantization block does not fit the model ({reason})") from None


def check_quantization(entry: Mapping[str, Any], path: Path) -> None:
    """Raise `CheckpointError` for a mode, bits or a group size that MLX does not have; MLX would end the process."""
    mode = entry.get("mode", "affine")
    groups, bits = QUANTIZATIONS.get(mode, ((), ())) if isinstance(mode, str) else ((), ())
    # Null means the mode's default. mlx-lm writes it for each layer of a mixed recipe.
    if not groups or entry.get("group_size") not in (None, *groups) or entry.get("bits") not in (None, *bits):
        stated = ", ".join(f"{key} {entry.get(key)!r}" for key in ("mode", "bits", "group_size") if key in entry)
        raise CheckpointError(f"{path}: the quantization block cannot be used ({stated})")


def quantization_of(raw: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """The description of the quantization in a parsed `config.json`, or None. Raises `CheckpointError` where it is not MLX's."""
    blocks = {name: raw[name] for name in BLOCKS if raw.get(name)}
    for name, block in blocks.items():
        if not isinstance(block, dict) or block.get("quant_method") or not {"bits", "group_size"} <= block.keys():
            method = block.get("quant_method") if isinstance(block, dict) else block
            of = f"of {method!r}" if method else "without bits and group_size"
            raise CheckpointError(f"{path}: the {name} block {of} is not MLX's; {ORIGINAL}")
    first, *others = blocks.items() or [("", None)]
    if odd := [name for name, block in others if block != first[1]]:
        raise CheckpointError(f"{path}: {first[0]} and {odd[0]} contradict each other; remove the wrong one")
    for entry in (first[1], *(first[1] or {}).values()):
        if isinstance(entry, dict):
            check_quantization(entry, path)
    return first[1]


def _check_agrees(own: Mapping[str, Any], quantized: set[str], stored: Collection[str], path: Path) -> None:
    """Raise `CheckpointError` where the block describes a layer as quantized that is not, or the other way round."""
    if not quantized:
        raise CheckpointError(f"{path}: has a quantization block, but no weight is quantized; remove the block, or {ORIGINAL}")
    for name, entry in own.items():
        if f"{name}.weight" in stored and bool(entry) != (name in quantized):
            is_, says = ("is", "is not") if name in quantized else ("is not", "is")
            raise CheckpointError(f"{path}: says that {name} {says} quantized, but its weight {is_}; download both again")
