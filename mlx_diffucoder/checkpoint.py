"""A checkpoint folder: its configuration and its weights, checked from the files' headers before any weight is read."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError, ConfigError
from .files import read_json
from .models import family_of
from .models.base import Family, ModelConfig
from .models.transformer import DiffusionModel

INDEX = "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16")
QUANTIZATIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((64, 32, 128), (4, 2, 3, 5, 6, 8)),
    "mxfp4": ((32,), (4,)),
    "mxfp8": ((32,), (8,)),
    "nvfp4": ((16,), (4,)),
}
"""The group sizes and bits of each of MLX's modes, the default first."""
SAMPLED = 16  # elements of each weight in a digest


@dataclass(frozen=True)
class StoredWeight:
    """A weight as a shard's header describes it; `name` is the file's name for it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path


def read_model_config(folder: Path) -> tuple[Family, ModelConfig, dict[str, Any]]:
    """The family and the network's shape from `config.json`, and its content. Raises `CheckpointError` or `ConfigError`."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: not a folder; a checkpoint is a folder with config.json and *.safetensors")
    path = folder / "config.json"
    raw = read_json(path)
    try:
        family = family_of(raw)
        return family, family.read_config(raw), raw
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_headers(folder: Path) -> dict[str, StoredWeight]:
    """Every weight of a folder by its name, from the headers of its shards.

    Raises:
        CheckpointError: the folder has no weights, a shard is missing or truncated, or two shards hold the same
            weight.
    """
    weights: dict[str, StoredWeight] = {}
    for file in shards(folder):
        try:
            with safe_open(file, framework="numpy") as shard:
                parts = {name: shard.get_slice(name) for name in shard.keys()}
                found = {name: StoredWeight(name, tuple(one.get_shape()), one.get_dtype(), file) for name, one in parts.items()}
        except (SafetensorError, OSError) as error:
            if not os.access(file, os.R_OK):
                raise CheckpointError(f"{file}: cannot be read (permission denied)") from None
            raise CheckpointError(f"{file}: truncated or damaged ({error}); download the file again") from None
        if twice := weights.keys() & found.keys():
            raise CheckpointError(f"{file}: {min(twice)} is also in {weights[min(twice)].file.name}; remove one of the two files")
        weights |= found
    return weights


def shards(folder: Path) -> list[Path]:
    """The files of a folder's weights. Raises `CheckpointError` where one is missing."""
    if (folder / INDEX).exists():
        names = read_json(folder / INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise CheckpointError(f"{folder / INDEX}: has no weight_map; download the file again")
        files = [folder / str(name) for name in sorted(set(map(str, names.values())))]
        if odd := [file for file in files if file.parent != folder or file.suffix != ".safetensors"]:
            raise CheckpointError(f"{folder / INDEX}: names {str(odd[0])[:200]}, which is not a .safetensors file of this folder")
        if lost := [file.name for file in files if not file.exists()]:
            raise CheckpointError(f"{folder}: the shard {lost[0]} is missing, though {INDEX} names it; download it again")
        return files
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: has no weights (model*.safetensors)")
    return files


def stored_weights(folder: Path, model: DiffusionModel) -> dict[str, StoredWeight]:
    """The weights of a folder by the network's names, without those it has no use for. Raises as `read_headers`."""
    found = {model.family.weight_name(name, model.config): weight for name, weight in read_headers(folder).items()}
    return {name: weight for name, weight in found.items() if name is not None}


def build(folder: Path) -> tuple[DiffusionModel, dict[str, Any]]:
    """The model of a folder, its weights not read yet, and its `config.json`.

    MLX reads an array from its file when the array is first evaluated. Nothing is copied or held twice.

    Raises:
        ConfigError: `config.json` is of no family that is known, or has a value that cannot work.
        CheckpointError: the folder lacks a file or a weight, or has an unknown weight or one of a wrong shape; the
            message names it.
    """
    family, config, raw = read_model_config(folder)
    model = DiffusionModel(config, family)
    stored = stored_weights(folder, model)
    _quantize_structure(model, raw, stored, folder)
    _check_weights(model, stored, folder)
    arrays: dict[str, mx.array] = {}
    for file in sorted({weight.file for weight in stored.values()}):
        arrays |= mx.load(str(file))  # type: ignore[arg-type]  # a .safetensors file gives a dict
    model.load_weights([(name, arrays[weight.name]) for name, weight in stored.items()], strict=True)
    model.eval()
    return model, raw


def weights_digest(model: DiffusionModel) -> str:
    """A hash of every weight's name, shape, type and first elements.

    Not covered: a change that leaves the first 16 elements of every weight as they are.
    """
    digest = hashlib.sha256()
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.shape} {weight.dtype}\n".encode())
        digest.update(np.array(weight.reshape(-1)[:SAMPLED].view(mx.uint8)).tobytes())
    return digest.hexdigest()


def check_quantization(entry: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` for a mode, bits or a group size that MLX does not have; MLX would end the process."""
    mode = entry.get("mode", "affine")
    groups, bits = QUANTIZATIONS.get(mode, ((), ())) if isinstance(mode, str) else ((), ())
    # Null means the mode's default. mlx-lm writes it for each layer of a mixed recipe.
    if not groups or entry.get("group_size") not in (None, *groups) or entry.get("bits") not in (None, *bits):
        stated = ", ".join(f"{key} {entry.get(key)!r}" for key in ("mode", "bits", "group_size") if key in entry)
        raise CheckpointError(f"{path}: the quantization block cannot be used ({stated})")


def _quantize_structure(model: DiffusionModel, raw: dict[str, Any], stored: dict[str, StoredWeight], folder: Path) -> None:
    """Replace the layers whose weights are quantized in the folder by quantized ones, as `config.json` describes them."""
    quantization = raw.get("quantization") or raw.get("quantization_config")
    quantized = any(name.endswith(".scales") for name in stored)
    if not quantized and not quantization:
        return
    path = folder / "config.json"
    if not quantization:
        raise CheckpointError(f"{path}: has no quantization block, but the weights are quantized")
    if not isinstance(quantization, dict) or "bits" not in quantization or "group_size" not in quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise CheckpointError(f"{path}: quantization {method!r} is not MLX's; convert the original checkpoint instead")
    own = {name: entry for name, entry in quantization.items() if isinstance(entry, dict | bool)}
    for entry in (quantization, *(entry for entry in own.values() if isinstance(entry, dict))):
        check_quantization(entry, path)

    def parameters(name: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or f"{name}.scales" not in stored:
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
        raise CheckpointError(f"{path}: the quantization block does not fit the model ({_first(error)})") from None


def _check_weights(model: DiffusionModel, stored: dict[str, StoredWeight], folder: Path) -> None:
    parameters: Any = tree_flatten(model.parameters())
    expected = {name: tuple(value.shape) for name, value in parameters}
    kinds = {name: {mx.uint32: ("U32",), mx.uint8: ("U8",)}.get(value.dtype, FLOATS) for name, value in parameters}
    if missing := sorted(expected.keys() - stored.keys()):
        raise CheckpointError(f"{folder}: {_few('missing weight', missing)}")
    if extra := sorted(stored.keys() - expected.keys()):
        raise CheckpointError(f"{folder}: {_few('unexpected weight', extra)}")
    if wrong := sorted(name for name in expected if expected[name] != stored[name].shape):
        name = wrong[0]
        raise CheckpointError(
            f"{stored[name].file}: {_few('wrongly shaped weight', wrong)}: {name} is"
            f" {list(stored[name].shape)}, but by config.json it must be {list(expected[name])}"
        )
    if odd := sorted(name for name in expected if stored[name].dtype not in kinds[name]):
        raise CheckpointError(
            f"{stored[odd[0]].file}: {_few('weight', odd)} of the wrong type: {odd[0]} is {stored[odd[0]].dtype},"
            f" not {' or '.join(kinds[odd[0]])}"
        )


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def _few(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{what}{'s' if len(names) > 1 else ''} {shown}"
