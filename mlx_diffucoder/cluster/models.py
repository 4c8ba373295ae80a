"""A model on the machine of a worker: found by the digest of its weights, loaded once, never downloaded."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..checkpoint import weights_digest
from ..errors import CheckpointError
from ..hub import cached
from ..installed import full_name, installed
from ..loading import DTYPES, POCKET, load, local_folder
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelRef:
    """A model as the first machine names it to the others.

    Attributes:
        name: for `load`; a folder by its full path.
        adapter: the full path of its adapter's folder, the same on all machines, or a Hub id.
        dtype: the type to compute in: by default it depends on the machine. None where weights have several.
        layout: a hash of the weights' names, shapes and types.
        digest: as `weights_digest`.
    """

    name: str
    adapter: str | None
    dtype: str | None
    layout: str
    digest: str

    @classmethod
    def of(cls, name: str, model: DiffusionModel, adapter: str | None = None) -> "ModelRef":
        """A model that is loaded here under this name."""
        folder = None if name == POCKET else local_folder(name)
        floats = {one.dtype for _, one in _weights(model) if mx.issubdtype(one.dtype, mx.floating)}
        dtype = next((key for key, value in DTYPES.items() if {value} == floats), None)
        own = Path(adapter).expanduser() if adapter else None
        adapter = str(own.resolve()) if own and own.exists() else adapter
        return cls(str(folder.resolve()) if folder else name, adapter, dtype, _layout(model), weights_digest(model))


_LOADED: dict[ModelRef, tuple[DiffusionModel, Tokenizer]] = {}


def loaded(ref: ModelRef) -> tuple[DiffusionModel, Tokenizer]:
    """The model, loaded at the first call; the one before is dropped.

    Raises:
        CheckpointError: it is not on this machine, or has other weights here; the message has the command to run.
    """
    if ref not in _LOADED:
        _LOADED.clear()
        mx.clear_cache()
        _LOADED[ref] = _load(ref)
    return _LOADED[ref]


def _load(ref: ModelRef) -> tuple[DiffusionModel, Tokenizer]:
    if ref.adapter and Path(ref.adapter).is_absolute() and not Path(ref.adapter).is_dir():
        raise CheckpointError(_copied(ref.adapter))
    tried = False
    for folder in _folders(ref):
        tried = True
        model, tokenizer = load(folder, dtype=ref.dtype, adapter=ref.adapter)
        if weights_digest(model) == ref.digest:
            return model, tokenizer
        del model
    what = f"{ref.name} has other weights on this machine" if tried else f"{ref.name} is not on this machine"
    if Path(ref.name).is_absolute():
        raise CheckpointError(_copied(ref.name) if not tried else f"{what}; {_copy(ref.name)}")
    raise CheckpointError(f"{what}; run there: diffucode models {f'rm {ref.name}, then ' if tried else ''}pull {ref.name}")


def _folders(ref: ModelRef) -> Iterator[Path]:
    """The folder of the model's name, and those of all models here whose weights have its names, shapes and types."""
    named = None
    try:
        name = full_name(ref.name)
        named = local_folder(name) or cached(name)
    except CheckpointError:  # a name without a model here
        pass
    if named:
        yield named
    for one in installed():
        folder = one.path if one.repo is None else cached(one.repo)
        if one.whole and folder and folder != named and _has_layout(folder, ref):
            yield folder


def _has_layout(folder: Path, ref: ModelRef) -> bool:
    try:
        model, _ = load(folder, dtype=ref.dtype, adapter=ref.adapter, lazy=True)
    except Exception:  # a model of another shape, for which the adapter is not
        return False
    return _layout(model) == ref.layout


def _layout(model: DiffusionModel) -> str:
    lines = [f"{name} {weight.shape} {weight.dtype}\n" for name, weight in sorted(_weights(model), key=lambda one: one[0])]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _weights(model: DiffusionModel) -> Any:
    return tree_flatten(model.parameters())


def _copied(folder: str) -> str:
    return f"{folder} is not on this machine; {_copy(folder)}"


def _copy(folder: str) -> str:
    return f"run on the first machine: rsync -a {folder}/ MACHINE:{folder}/"
