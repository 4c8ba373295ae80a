"""The files of a checkpoint's weights: which there are, and what their headers say."""

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .errors import CheckpointError
from .file_kinds import TO_SAFETENSORS, check_regular, known_content
from .files import read_json

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapters.safetensors")
"""The weights of an adapter, as PEFT and as mlx-lm name them."""
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}
"""The types of weights that this program reads."""
SAMPLED = 64  # bytes of each weight that are compared where two files, or two machines, hold it
PIECE = 2**24  # bytes that are compared at once
NUMBERED = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True)
class StoredWeight:
    """A weight as a shard's header describes it; `name` is the file's name for it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path


def read_headers(folder: Path) -> dict[str, StoredWeight]:
    """Every weight of a folder by its name, from the headers of its shards.

    Raises:
        CheckpointError: the folder has no weights, a shard is missing or truncated, or two files hold the same
            weight.
    """
    weights: dict[str, StoredWeight] = {}
    for file in shards(folder):
        found = read_header(file)
        if twice := weights.keys() & found.keys():
            raise CheckpointError(f"{file}: {min(twice)} is also in {weights[min(twice)].file.name}; remove one of the two files")
        weights |= found
    whole = folder / WHOLE
    if whole.exists() and not any(weight.file == whole for weight in weights.values()):
        again = read_header(whole)
        if again.keys() != weights.keys() or any(not same_bytes(weights[name], again[name], SAMPLED) for name in weights):
            raise CheckpointError(f"{whole}: differs from the shards that {INDEX} names; remove it, or {INDEX} with the shards")
    return weights


def read_header(file: Path) -> dict[str, StoredWeight]:
    """The weights of one .safetensors file by name. Raises `CheckpointError` where it cannot be read."""
    check_regular(file)
    try:
        with safe_open(file, framework="numpy") as shard:
            parts = {name: shard.get_slice(name) for name in shard.keys()}
            return {name: StoredWeight(name, tuple(one.get_shape()), one.get_dtype(), file) for name, one in parts.items()}
    except (SafetensorError, OSError) as error:
        if not os.access(file, os.R_OK):
            raise CheckpointError(f"{file}: cannot be read (permission denied)") from None
        what = known_content(file) or f"truncated or damaged ({error}); download the file again"
        raise CheckpointError(f"{file}: {what}") from None


def data_offsets(file: Path) -> dict[str, int]:
    """The offset of each tensor's bytes in a shard whose header `read_headers` has checked."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def files_digest(folder: Path) -> str:
    """A hash of each weight's name, shape, type and first bytes, as the files of a folder have them. Nothing else is read.

    Raises:
        CheckpointError: as `read_headers`.
    """
    digest, headers = hashlib.sha256(), read_headers(folder)
    offsets = {file: data_offsets(file) for file in {one.file for one in headers.values()}}
    for name, one in sorted(headers.items()):
        digest.update(f"{name} {one.shape} {one.dtype}\n".encode())
        with one.file.open("rb") as opened:
            opened.seek(offsets[one.file][one.name])
            digest.update(opened.read(min(SAMPLED, math.prod(one.shape) * ITEM_BYTES.get(one.dtype, 1))))
    return digest.hexdigest()


def same_bytes(one: StoredWeight | None, other: StoredWeight | None, most: int | None = None) -> bool:
    """Whether two weights have the same type, shape and bytes, or the same first `most` bytes; or neither is there."""
    if one is None or other is None:
        return one is other
    if (one.shape, one.dtype) != (other.shape, other.dtype) or one.dtype not in ITEM_BYTES:
        return False
    size = math.prod(one.shape) * ITEM_BYTES[one.dtype]
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(data_offsets(one.file)[one.name])
        right.seek(data_offsets(other.file)[other.name])
        size = size if most is None else min(size, most)
        return all(left.read(min(PIECE, size - begin)) == right.read(min(PIECE, size - begin)) for begin in range(0, size, PIECE))


def shards(folder: Path) -> list[Path]:
    """The files of a folder's weights. Raises `CheckpointError` where one is missing."""
    names = shard_names(folder)
    # An index can name what no file can be called, for which `Path.exists` raises.
    lost = [name for name in names if not os.path.exists(folder / name)]  # noqa: PTH110
    if lost and (folder / WHOLE).exists():  # an index that was left behind when the weights were saved as one file
        return [folder / WHOLE]
    if lost:
        named = f", though {INDEX} names it" if (folder / INDEX).exists() else ""
        raise CheckpointError(f"{folder}: the shard {lost[0]} is missing{named}; download it again")
    return [folder / name for name in names]


def shard_names(folder: Path) -> list[str]:
    """The names of the files of a folder's weights, which need not all be there.

    Raises:
        CheckpointError: the index is damaged, or there is neither an index nor a shard.
    """
    if (folder / INDEX).exists():
        names = read_json(folder / INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise CheckpointError(f"{folder / INDEX}: has no weight_map; download the file again")
        files = [folder / str(name) for name in sorted(set(map(str, names.values())))]
        if odd := [file for file in files if file.parent != folder or file.suffix != ".safetensors"]:
            raise CheckpointError(f"{folder / INDEX}: names {str(odd[0])[:200]}, which is not a .safetensors file of this folder")
        return [file.name for file in files]
    found = {file.name for file in folder.glob("model*.safetensors")}
    if not found:
        what = instead(folder)
        raise CheckpointError(f"{folder}: has no weights (model*.safetensors){'; ' if what else ''}{what}")
    for match in filter(None, map(NUMBERED.fullmatch, list(found))):
        found |= {f"model-{number:05d}-of-{match[2]}.safetensors" for number in range(1, int(match[2]) + 1)}
    return sorted(found)


def instead(folder: Path) -> str:
    """What a folder without a checkpoint's files is, and what to do; empty where it is nothing that people often have."""
    names = sorted(file.name for file in folder.iterdir())

    def first(*endings: str) -> str | None:
        return next((name for name in names if name.endswith(endings)), None)

    if any(name.startswith("adapter") for name in names):
        return "it is an adapter: name its base with --model and this folder with --adapter"
    if first(".bin"):
        return (
            f"{first('.bin')} is a pickle, which can run code and is never read here;"
            f" run this in the folder, with PyTorch installed: {TO_SAFETENSORS}"
        )
    if other := first(".pt", ".pth", ".ckpt", ".gguf", ".npz", ".msgpack", ".h5", ".onnx"):
        return f"{other} is of a format that this program does not read; take the original checkpoint in safetensors"
    if other := first(".incomplete", ".part", ".crdownload", ".download"):
        return f"{other} is an unfinished download; finish it"
    if (other := first(".safetensors")) and not other.startswith("model"):
        return f"if {other} holds them, rename it to {WHOLE}"
    inner = [name for name in names if (folder / name / "config.json").is_file()]
    return f"did you mean {folder / inner[-1]}?" if inner and "config.json" not in names else ""
