"""A model that several processes compute, read from files: each process reads its own part of them, and no other."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from . import __version__
from .adapter import apply_adapter
from .arrays import from_numpy
from .checkpoint import TYPES, build, hub_name, stored_weights, weights_digest
from .errors import CheckpointError, ConfigError
from .link import Facts, Link, join, lead
from .loading import DTYPES, default_dtype
from .memory import bytes_of, check_fits, keep_resident
from .models.sharded import SharedModel, axis_of, check_divides, share
from .models.transformer import DiffusionModel
from .ranks import Launch
from .tokenizer import Tokenizer
from .weight_files import ITEM_BYTES, StoredWeight, data_offsets, files_digest

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True)
class Plan:
    """What several processes compute together.

    Attributes:
        folder: of the model.
        shard: how: `tensor` or `sequence`.
        adapter: the folder of an adapter; None for none.
    """

    folder: Path
    shard: str
    adapter: Path | None = None

    def open(self, size: int) -> "tuple[DiffusionModel, dict[str, StoredWeight], Facts]":
        """The whole model, its weights not read; where they are; and what must be equal on all of `size` ranks.

        Raises:
            CheckpointError, ConfigError: as `loading.load`; or the model cannot be divided into so many parts.
        """
        model, _ = build(self.folder)
        stored = stored_weights(self.folder, model)
        if self.adapter is not None:
            apply_adapter(model, self.adapter, hub_name(self.folder), weights_digest(model, stored))
        if self.shard == "tensor":
            check_divides(model.config, size)
            _check_weights(model, size, self.folder)
        here = Path(__file__).parent
        adapter = [] if self.adapter is None else [*self.adapter.glob("adapter*")]
        code = [*here.glob("*.py"), *here.glob("models/*.py"), *here.glob("decoding/**/*.py")]
        return (
            model,
            stored,
            {
                "--shard": self.shard,
                "the version of mlx_diffucoder": __version__,
                "the version of MLX": version("mlx"),
                "the hash of mlx_diffucoder's code": _hash(code),  # a version has many commits
                "the hash of config.json": _hash([self.folder / "config.json"]),
                "the hash of the weights": files_digest(self.folder)[:16],
                "the hash of the adapter": _hash(adapter),
            },
        )


def load_leading(name: str, plan: Plan, dtype: str | None, *, check_memory: bool) -> tuple[SharedModel, Tokenizer]:
    """This process's part of a model, whose calls the other ranks follow, and the tokenizer.

    Args:
        name: of the model, for messages.
        dtype, check_memory: as for `loading.load`. The type that this rank chooses is that of all.

    Raises:
        RankError: another rank did not start, or has another version or model.
        CheckpointError, ConfigError: as `Plan.open`.
    """
    launch = Launch.read()
    tokenizer = Tokenizer.load(plan.folder)
    whole, stored, facts = plan.open(len(launch.names))
    model = _read(whole, stored, lead(launch, facts), plan.shard)
    if check_memory:
        check_fits(name, bytes_of(model.parameters()), model.config.parameters)
    if chosen := dtype or default_dtype(model):
        model.link.send(["dtype", chosen])
        model.cast(DTYPES[chosen])
    keep_resident(bytes_of(model.parameters()))
    return model, tokenizer


def described(plan: Plan, model: SharedModel) -> tuple[DiffusionModel, str]:
    """The whole of a model that `load_leading` returned, in the same types, its weights not read; and their `weights_digest`."""
    whole, stored, _ = plan.open(model.link.size)
    if model.dtype:
        whole.set_dtype(model.dtype)
    return whole, weights_digest(whole, stored)


def load_following(find: Callable[[], Plan]) -> SharedModel:
    """A follower's part of a model. Raises as `load_leading`; rank 0 prints what is wrong here.

    Args:
        find: what to compute; what it raises is wrong here, too.
    """
    launch = Launch.read()
    try:
        plan = find()
        whole, stored, facts = plan.open(len(launch.names))
    except Exception as error:
        join(launch, None, str(error))
        raise
    model = _read(whole, stored, join(launch, facts), plan.shard)
    keep_resident(bytes_of(model.parameters()))
    return model


def _hash(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _check_weights(model: DiffusionModel, size: int, folder: Path) -> None:
    """Raise `CheckpointError` or `ConfigError` where a weight does not divide into `size` equal parts."""
    weights: Any = tree_flatten(model.parameters())
    for name, weight in weights:
        axis = axis_of(name)
        if name.endswith(".m") and axis == 1:
            raise ConfigError(
                "--shard tensor divides no DoRA adapter; put it into the weights first: diffucode fuse", field="--shard"
            )
        if axis is not None and weight.shape[axis] % size:
            what = "groups of quantized columns" if name.endswith((".scales", ".biases")) else "rows or columns"
            count = weight.shape[axis]
            raise CheckpointError(f"{folder}: {size} processes do not divide the {count} {what} of {name}; start fewer")


def _read(model: DiffusionModel, stored: Mapping[str, StoredWeight], link: Link, shard: str) -> SharedModel:
    """Put this rank's part of every weight into a model, the largest first."""
    rank, size = (link.launch.rank, link.size) if shard == "tensor" else (0, 1)
    weights: Any = tree_flatten(model.parameters())
    for name, weight in sorted(weights, key=lambda item: -item[1].size):
        axis, file = axis_of(name), stored.get(name.replace(".linear.", "."))
        part = weight if axis is None or file else mx.split(weight, size, axis)[rank]  # an adapter's
        model.load_weights([(name, _part(file, axis, rank, size) if file else part)], strict=False)
    model.eval()
    mx.eval(model.parameters(), mx.random.state)
    return share(model, link, shard)


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
    array = from_numpy(found.view(WORDS[item])).view(TYPES[weight.dtype]).reshape(shape)
    mx.eval(array)
    return array
