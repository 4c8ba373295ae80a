"""Adapters as PEFT publishes them: LoRA, rsLoRA and DoRA, as mlx-lm's layers.

A folder holds `adapter_model.safetensors` and `adapter_config.json`. PEFT stores A `[r, in]` and B `[out, r]` of each layer,
and scales their product by alpha / r, or alpha / sqrt(r) with `use_rslora`; mlx-lm's layers hold both transposed.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from .checkpoint import DECODING, FLOATS
from .config import is_number
from .errors import CheckpointError
from .models.transformer import DiffusionModel
from .weight_files import ADAPTER_WEIGHTS, read_header

PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
PARTS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "m"}
READ = frozenset(
    [
        "peft_type",
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "use_rslora",
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "bias",
        "base_model_name_or_path",
        "init_lora_weights",
        DECODING,
    ]
)
IGNORED = frozenset(
    [
        "auto_mapping",
        "revision",
        "task_type",
        "inference_mode",
        "lora_dropout",
        "layers_pattern",
        "megatron_core",
        "runtime_config",
        "peft_version",
        "qalora_group_size",
    ]
)
"""What says nothing about the numbers: how the adapter was trained, or the settings of something that is off."""
LARGEST = 2**20
"""A rank, or a scale by which an adapter's product is multiplied, at most: far beyond any adapter's."""
STARTS = (None, True, False, "gaussian", "orthogonal")
"""Initializations that leave the base as it was; others train an adapter for a changed base."""
_log = logging.getLogger("mlx_diffucoder")


def apply_peft(model: DiffusionModel, folder: Path, config: Mapping[str, Any], path: Path, base: str) -> None:
    """Add the layers of PEFT's adapter in `folder` to a model as it was loaded.

    Args:
        config: the content of `adapter_config.json`, and `path` its place.
        base: the name of the model. Another name in the configuration is a warning: it is often a path of the author's.

    Raises:
        CheckpointError: the adapter is of a kind that is not read, is damaged, or does not fit the model.
    """
    _check_kind(config, path)
    file = folder / ADAPTER_WEIGHTS[0]
    if not file.exists() and (folder / PICKLE).exists():
        raise CheckpointError(
            f"{folder / PICKLE}: is a pickle, which can run code and is never read here; save the adapter again with PEFT's"
            " save_pretrained, which writes safetensors"
        )
    shapes = shapes_in(file)
    layers = _layers(shapes, file)
    _check_layers(list(layers), config, model.config.num_hidden_layers, path, file)
    arrays: Any = mx.load(str(file))
    modules, made = dict(model.named_modules()), []
    for layer, parts in layers.items():
        own = model.family.weight_name(f"{layer}.weight", model.config)
        name = (own or layer).removesuffix(".weight")
        linear = modules.get(name)
        if not isinstance(linear, nn.Linear | nn.QuantizedLinear):
            raise CheckpointError(f"{file}: the adapter belongs to another model: this one has no layer {layer}")
        rank, scale = _rank_and_scale(layer, config, path)
        _check_shapes(layer, {part: shapes[stored] for part, stored in parts.items()}, linear, rank, config, file)
        made.append((name, _with_adapter(linear, {part: arrays[stored] for part, stored in parts.items()}, rank, scale)))
    model.update_modules(tree_unflatten(made))
    stated = str(config.get("base_model_name_or_path") or "").rstrip("/").rpartition("/")[2].lower()
    known = base.rpartition("/")[2].lower()
    if stated and not (known.startswith(stated) or stated.startswith(known)):
        _log.warning(f"{folder}: the adapter names the model {config['base_model_name_or_path']}, and is applied to {base}")


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of an adapter's file. Raises `CheckpointError` where it is damaged, or a weight is no float."""
    if not file.exists():
        raise CheckpointError(f"{file}: no such file; download the adapter again")
    weights = read_header(file)
    if odd := [one for one in weights.values() if one.dtype not in FLOATS]:
        raise CheckpointError(
            f"{file}: {odd[0].name} is {odd[0].dtype}, not {' or '.join(FLOATS)}; save the adapter as one of these"
        )
    return {name: one.shape for name, one in weights.items()}


def _check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Raise `CheckpointError` for what is not read, by its name."""
    if config["peft_type"] != "LORA":
        raise CheckpointError(f"{path}: peft_type is {config['peft_type']}, which is not read; LORA is")
    if odd := [name for name in ("use_rslora", "use_dora") if config.get(name) not in (None, True, False)]:
        raise CheckpointError(f"{path}: {odd[0]} is {config[odd[0]]!r}, which is neither true nor false")
    unread = [name for name, value in config.items() if value and name not in READ | IGNORED]
    unread += ["bias"] * (config.get("bias") not in (None, "none"))
    unread += ["init_lora_weights"] * (config.get("init_lora_weights") not in STARTS)
    if unread:
        name = unread[0]
        raise CheckpointError(
            f"{path}: {name} is {config[name]!r}, which is not read; merge the adapter into its base with PEFT's"
            " merge_and_unload, and name the merged checkpoint with --model"
        )


def _layers(names: Mapping[str, Any], file: Path) -> dict[str, dict[str, str]]:
    """The stored names of each layer's parts, by the layer's name in its base."""
    layers: dict[str, dict[str, str]] = {}
    for stored in sorted(names):
        suffix = next((one for one in PARTS if stored.endswith(f".{one}")), None)
        if suffix is None or not stored.startswith(PREFIX):
            raise CheckpointError(f"{file}: has {stored}, which is no weight of a LoRA or DoRA layer")
        layers.setdefault(stored.removeprefix(PREFIX).removesuffix(f".{suffix}"), {})[PARTS[suffix]] = stored
    if not layers:
        raise CheckpointError(f"{file}: has no weights")
    return layers


def _check_layers(layers: list[str], config: Mapping[str, Any], depth: int, path: Path, file: Path) -> None:
    """Check that the weights are those of the layers that the configuration names, in a network of `depth` blocks."""
    targets, chosen = config.get("target_modules"), config.get("layers_to_transform")
    chosen = [chosen] if is_number(chosen, int) else chosen or []
    if not isinstance(chosen, list) or not all(is_number(one, int) for one in chosen):
        raise CheckpointError(f"{path}: layers_to_transform is {chosen!r}, which is not a list of numbers")
    named, numbers = _selector(targets, path), {one: int(found[1]) for one in layers if (found := re.search(r"\.(\d+)\.", one))}
    for layer in layers:
        if not named(layer) or (chosen and layer in numbers and numbers[layer] not in chosen):
            raise CheckpointError(f"{file}: has {layer}, which {path.name} does not name; the two do not belong together")
    if not isinstance(targets, list) or config.get("exclude_modules"):
        return
    for target in targets:
        own = list(filter(_selector([target], path), layers))
        lost = sorted({*(chosen or range(depth))} - {numbers[one] for one in own if one in numbers})
        if not own or (lost and any(one in numbers for one in own)):
            where = f" of layer {lost[0]}" if own else ""
            raise CheckpointError(
                f"{file}: has no weights for {target}{where}, which {path.name} names; it is damaged, or another model's"
            )


def _selector(targets: Any, path: Path) -> Callable[[str], bool]:
    """Whether PEFT's `target_modules` names a layer."""
    if targets == "all-linear":
        return lambda layer: True
    if isinstance(targets, list) and targets and all(isinstance(one, str) for one in targets):
        return lambda layer: any(layer == one or layer.endswith(f".{one}") for one in targets)
    try:
        expression = re.compile(targets)
    except (re.error, TypeError):
        raise CheckpointError(f"{path}: target_modules is {targets!r}, which names no layers") from None
    return lambda layer: expression.fullmatch(layer) is not None


def _rank_and_scale(layer: str, config: Mapping[str, Any], path: Path) -> tuple[int, float]:
    values: list[Any] = []
    for name, pattern, kind in (("r", "rank_pattern", int), ("lora_alpha", "alpha_pattern", int | float)):
        value: Any = config.get(name)
        by_layer: Any = config.get(pattern) or {}
        try:
            value = next((own for key, own in by_layer.items() if re.fullmatch(rf"(.*\.)?({key})", layer)), value)
        except (re.error, AttributeError):
            raise CheckpointError(f"{path}: {pattern} is not a table of layers") from None
        if not is_number(value, kind) or not 0 < value <= LARGEST:
            raise CheckpointError(f"{path}: {name} of {layer} is {value!r}, which is not a valid number")
        values.append(value)
    rank, alpha = values
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_shapes(
    layer: str, shapes: Mapping[str, tuple[int, ...]], linear: nn.Module, rank: int, config: Mapping[str, Any], file: Path
) -> None:
    outputs, inputs = linear.weight.shape
    inputs = inputs * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else inputs
    wanted = {"lora_a": (rank, inputs), "lora_b": (outputs, rank)} | ({"m": (outputs,)} if config.get("use_dora") else {})
    for part, shape in wanted.items():
        if part not in shapes:
            raise CheckpointError(f"{file}: lacks {part} of {layer}; it is damaged, or does not belong to {file.parent}")
        if shapes[part] != shape:
            raise CheckpointError(
                f"{file}: the adapter belongs to another model: {part} of {layer} is {list(shapes[part])}, not {list(shape)}"
            )
    if extra := sorted(shapes.keys() - wanted.keys()):
        raise CheckpointError(f"{file}: has {extra[0]} of {layer}, though use_dora is not set; the files do not belong together")


def _with_adapter(linear: nn.Module, parts: Mapping[str, mx.array], rank: int, scale: float) -> nn.Module:
    from mlx_lm.tuner.dora import DoRALinear
    from mlx_lm.tuner.lora import LoRALinear

    made: Any = (DoRALinear if "m" in parts else LoRALinear).from_base(linear, r=rank, scale=scale)
    made.lora_a, made.lora_b = parts["lora_a"].T, parts["lora_b"].T
    if "m" in parts:
        made.m = parts["m"]
    return made
