"""A checkpoint folder: its configuration and its weights, checked from the files' headers before any weight is read."""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from .arrays import from_numpy
from .config import GenerationConfig
from .errors import CheckpointError, ConfigError
from .files import read_json
from .models import family_of
from .models.base import Family, ModelConfig
from .models.transformer import DiffusionModel
from .models.weight_names import EMBEDDINGS, HEAD, unwrapped
from .quantization import quantization_of, quantize_structure
from .tokenizer_files import added_tokens
from .weight_files import INDEX as INDEX
from .weight_files import ITEM_BYTES, StoredWeight, data_offsets, instead, read_headers, same_bytes
from .weight_files import shards as shards

DECODING = "diffucoder_decoding"
"""In the configuration of weights that were trained for a rule and a window: `{"rule": ..., "window": ...}`."""
FLOATS = ("F32", "F16", "BF16")
TYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32, "U8": mx.uint8}
SAMPLED = 16  # elements of each weight in a digest


def read_model_config(folder: Path) -> tuple[Family, ModelConfig, dict[str, Any]]:
    """The family and the network's shape from `config.json`, and its content. Raises `CheckpointError` or `ConfigError`."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: not a folder; a checkpoint is a folder with config.json and *.safetensors")
    path = folder / "config.json"
    if os.access(folder, os.X_OK) and not path.exists():
        raise CheckpointError(f"{path}: no such file; {instead(folder) or f'is {folder} a checkpoint folder?'}")
    raw = read_json(path)
    try:
        added = added_tokens(folder)
        family = family_of(raw, added)
        config = family.read_config(raw, added)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    quantization_of(raw, path)
    return family, config, raw


def stored_weights(folder: Path, model: DiffusionModel) -> dict[str, StoredWeight]:
    """The weights of a folder by the network's names, without those it has no use for. Raises as `read_headers`."""
    return _for_network(read_headers(folder), model.family, model.config)


def _for_network(headers: dict[str, StoredWeight], family: Family, config: ModelConfig) -> dict[str, StoredWeight]:
    found: dict[str, StoredWeight] = {}
    for stored, plain in unwrapped(headers).items():
        name = family.weight_name(plain, config)
        if name in found:
            raise CheckpointError(f"{headers[stored].file}: {found[name].name} and {stored} are the same weight; remove one")
        if name is not None:
            found[name] = headers[stored]
    return found


def build(folder: Path) -> tuple[DiffusionModel, dict[str, Any]]:
    """The model of a folder, its weights not read yet, and its `config.json`, as `structure` returns it.

    MLX reads an array from its file when the array is first evaluated. Nothing is copied or held twice. Raises as `structure`.
    """
    model, raw, stored = structure(folder)
    arrays: dict[str, mx.array] = {}
    for file in sorted({weight.file for weight in stored.values()}):
        arrays |= mx.load(str(file))  # type: ignore[arg-type]  # a .safetensors file gives a dict
    model.load_weights([(name, arrays[weight.name]) for name, weight in stored.items()], strict=True)
    model.eval()
    mx.eval(mx.random.state)  # the initial weights have split its key many times, and splits that wait stay in memory
    return model, raw


def structure(folder: Path) -> tuple[DiffusionModel, dict[str, Any], dict[str, StoredWeight]]:
    """The model of a folder with other weights, its `config.json`, and where its weights are, by the network's names.

    A head that the weights have is used, even if `config.json` says that it is tied to the embeddings; the embeddings are,
    where they have none and `config.json` does not say. The returned configuration says which.

    Raises:
        ConfigError: `config.json` is of no family that is known, or has a value that cannot work.
        CheckpointError: the folder lacks a file or a weight, or has an unknown weight or one of a wrong shape; the
            message names it.
    """
    family, config, raw = read_model_config(folder)
    headers = read_headers(folder)
    untied = replace(config, tie_word_embeddings=False)
    stored = _for_network(headers, family, untied)
    if config.tie_word_embeddings and _has_own_head(stored):
        config, raw = untied, raw | {"tie_word_embeddings": False}
    elif family.tied(raw) is None and not any(name in stored for name in HEAD):
        config, raw = replace(config, tie_word_embeddings=True), raw | {"tie_word_embeddings": True}
    stored = _for_network(headers, family, config)
    model = DiffusionModel(config, family)
    quantize_structure(model, raw, stored, folder / "config.json")
    _check_weights(model, stored, folder)
    model.published = family.published(f"{raw.get('_name_or_path')} {hub_name(folder)}")
    if raw.get(DECODING) is not None:
        prefer(model, raw[DECODING], folder / "config.json")
    return model, raw, stored


def prefer(model: DiffusionModel, decoding: Any, path: Path) -> None:
    """Make the `rule` and `window` that a model was trained for its defaults. Raises `CheckpointError` with the file `path`."""
    try:
        config = GenerationConfig(rule=decoding["rule"], window=decoding["window"])
    except (TypeError, KeyError, IndexError, ConfigError) as error:
        why = error if isinstance(error, ConfigError) else "a rule and a window are needed"
        raise CheckpointError(f"{path}: {DECODING} is {decoding!r}, which cannot be decoded with: {why}") from None
    model.family = replace(model.family, rule=config.rule, window=config.window)


def hub_name(folder: Path) -> str:
    """The Hub id of a snapshot in the Hub's cache, or else the folder's own name."""
    cached = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return cached.removeprefix("models--").replace("--", "/", 1) if cached.startswith("models--") else folder.name


def _has_own_head(stored: dict[str, StoredWeight]) -> bool:
    """Whether there is a head whose bytes are not those of the embeddings."""
    head, embeddings = [[stored.get(name) for name in names] for names in (HEAD, EMBEDDINGS)]
    return any(head) and not all(map(same_bytes, head, embeddings))


def weights_digest(model: DiffusionModel, stored: Mapping[str, StoredWeight] | None = None) -> str:
    """A hash of every weight's name, shape, type and first elements.

    Not covered: a change that leaves the first 16 elements of every weight as they are.

    Args:
        stored: where the weights are, of a model that `build` returned. The others are not read then.
    """
    digest = hashlib.sha256()
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    offsets = {file: data_offsets(file) for file in {one.file for one in (stored or {}).values()}}
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.shape} {weight.dtype}\n".encode())
        file = (stored or {}).get(name.replace(".linear.", "."))  # the base of an adapter
        first = _first(file, offsets).astype(weight.dtype) if file else weight.reshape(-1)[:SAMPLED]
        digest.update(np.array(first.view(mx.uint8)).tobytes())
    return digest.hexdigest()


def _first(stored: StoredWeight, offsets: Mapping[Path, Mapping[str, int]]) -> mx.array:
    """The first elements of a weight, from its file."""
    count = min(SAMPLED, math.prod(stored.shape)) * ITEM_BYTES[stored.dtype]
    with stored.file.open("rb") as opened:
        opened.seek(offsets[stored.file][stored.name])
        return from_numpy(np.frombuffer(opened.read(count), np.uint8)).view(TYPES[stored.dtype])


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


def _few(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{what}{'s' if len(names) > 1 else ''} {shown}"
