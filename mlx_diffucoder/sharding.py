"""A model divided among processes, read from files: each process reads its own part of them, and no other."""

import hashlib
import math
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np

from . import __version__
from .arrays import from_numpy
from .checkpoint import structure
from .errors import CheckpointError
from .link import Facts, Link, join, lead
from .loading import DTYPES, default_dtype
from .memory import bytes_of, check_fits, keep_resident
from .models.sharded import SharedModel, axis_of, part_config
from .quantization import quantize_structure
from .ranks import Launch
from .tokenizer import Tokenizer
from .weight_files import ITEM_BYTES, StoredWeight, data_offsets, files_digest

HELD = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32, "U8": mx.uint8}
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def load_leading(name: str, folder: Path, dtype: str | None, *, check_memory: bool) -> tuple[SharedModel, Tokenizer]:
    """This process's part of a model, whose calls the other ranks follow, and the tokenizer.

    Args:
        name: of the model, for messages.
        dtype, check_memory: as for `loading.load`. The type that this rank chooses is that of all.

    Raises:
        RankError: another rank did not start, or has another version or model.
        CheckpointError, ConfigError: as `load`; or the model cannot be divided among so many processes.
    """
    launch = Launch.read()
    _check_divides(folder, len(launch.names))
    tokenizer = Tokenizer.load(folder)
    model = _read(folder, lead(launch, facts_of(folder)))
    if check_memory:
        check_fits(name, bytes_of(model.parameters()), model.config.parameters)
    if chosen := dtype or default_dtype(model):
        model.link.send(["dtype", chosen])
        model.cast(DTYPES[chosen])
    keep_resident(bytes_of(model.parameters()))
    return model, tokenizer


def load_following(folder: Path) -> SharedModel:
    """A follower's part of a model. Raises as `load_leading`; rank 0 prints what is wrong here."""
    launch = Launch.read()
    _check_divides(folder, len(launch.names))
    try:
        facts = facts_of(folder)
    except Exception as error:
        join(launch, None, str(error))
        raise
    model = _read(folder, join(launch, facts))
    keep_resident(bytes_of(model.parameters()))
    return model


def facts_of(folder: Path) -> Facts:
    """What must be equal on all ranks: versions, the configuration, and each weight's name, shape, type and first bytes."""
    config = hashlib.sha256((folder / "config.json").read_bytes())
    return {
        "the version of mlx_diffucoder": __version__,
        "the version of MLX": version("mlx"),
        "the hash of config.json": config.hexdigest()[:16],
        "the hash of the weights": files_digest(folder)[:16],
    }


def _check_divides(folder: Path, size: int) -> None:
    """Raise `ConfigError` or `CheckpointError` where a folder's model does not divide into `size` equal parts."""
    model, _, stored = structure(folder)
    part_config(model.config, size)
    for name, one in stored.items():
        axis = axis_of(name)
        if axis is not None and one.shape[axis] % size:
            what = "groups of quantized columns" if name.endswith((".scales", ".biases")) else "rows or columns"
            raise CheckpointError(f"{folder}: {size} processes do not divide the {one.shape[axis]} {what} of {name}; start fewer")


def _read(folder: Path, link: Link) -> SharedModel:
    whole, raw, stored = structure(folder)
    model = SharedModel(whole.config, whole.family, link)
    quantize_structure(model, raw, stored, folder / "config.json")
    mx.eval(mx.random.state)
    largest_first = sorted(stored.items(), key=lambda item: -math.prod(item[1].shape))
    for name, one in largest_first:
        model.load_weights([(name, _part(one, axis_of(name), link.launch.rank, link.size))], strict=False)
    model.connect()
    model.published = whole.published
    model.eval()
    return model


def _part(weight: StoredWeight, axis: int | None, rank: int, size: int) -> mx.array:
    """One rank's part of a weight, read from its file."""
    axis, size, rank = (0, 1, 0) if axis is None else (axis, size, rank)
    item = ITEM_BYTES[weight.dtype]
    shape = list(weight.shape)
    row = math.prod(shape[axis:]) * item
    shape[axis] //= size
    part = math.prod(shape[axis:]) * item
    found = np.empty(math.prod(shape) * item, dtype=np.uint8)
    start = data_offsets(weight.file)[weight.name] + rank * part
    view = memoryview(found.data)
    with weight.file.open("rb", buffering=0) as opened:
        for index in range(len(found) // part):
            opened.seek(start + index * row)
            opened.readinto(view[index * part : (index + 1) * part])
    array = from_numpy(found.view(WORDS[item])).view(HELD[weight.dtype]).reshape(shape)
    mx.eval(array)
    return array
