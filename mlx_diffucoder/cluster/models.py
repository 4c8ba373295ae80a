"""A model on the machine of a worker: found by the digest of its weights, loaded once, never downloaded."""

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import CheckpointError
from ..hub import cached
from ..installed import full_name, installed
from ..loading import DTYPES, POCKET, load, local_folder, resolve, resolve_adapter
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from ..weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, files_digest


@dataclass(frozen=True)
class ModelRef:
    """A model as the first machine names it to the others.

    Attributes:
        name: for `load`; a folder by its full path.
        adapter: the full path of its adapter's folder, the same on all machines, or a Hub id.
        dtype: the type to compute in: by default it depends on the machine. None where weights have several.
        digest: of the weights' files, and of the adapter's.
    """

    name: str
    adapter: str | None
    dtype: str | None
    digest: tuple[str, str]

    @classmethod
    def of(cls, name: str, model: DiffusionModel | None = None, adapter: str | None = None) -> "ModelRef":
        """A model of this name on this machine.

        Args:
            model: it, as it is computed with here; None where its type is told otherwise.
        """
        local = None if name == POCKET else local_folder(name)
        weights: Any = tree_flatten(model.parameters()) if model else []
        floats = {one.dtype for _, one in weights if mx.issubdtype(one.dtype, mx.floating)}
        dtype = next((key for key, value in DTYPES.items() if {value} == floats), None)
        own = Path(adapter).expanduser() if adapter else None
        adapter = str(own.resolve()) if own and own.exists() else adapter
        digest = files_digest(resolve(name)), _adapter_digest(adapter)
        return cls(str(local.resolve()) if local else name, adapter, dtype, digest)


_KEPT: dict[Hashable, Any] = {}


def kept(key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` returns, called for the first task with this key. What another key has is dropped: one model fits."""
    if key not in _KEPT:
        _KEPT.clear()
        mx.clear_cache()
        _KEPT[key] = make()
    return _KEPT[key]


def loaded(ref: ModelRef) -> tuple[DiffusionModel, Tokenizer]:
    """The model, loaded at the first call. Raises as `folder_of`."""
    return kept(ref, lambda: load(folder_of(ref), dtype=ref.dtype, adapter=ref.adapter))


def folder_of(ref: ModelRef) -> Path:
    """The folder of the model on this machine.

    Raises:
        CheckpointError: it is not on this machine, or has other weights here; the message has the command to run.
    """
    if ref.adapter and Path(ref.adapter).is_absolute() and not Path(ref.adapter).is_dir():
        raise CheckpointError(f"{ref.adapter} is not on this machine; {_copy(ref.adapter)}")
    if ref.adapter and _adapter_digest(ref.adapter) != ref.digest[1]:
        raise CheckpointError(f"{ref.adapter} has other weights on this machine; {_copy(ref.adapter)}")
    tried = False
    for folder, named in _folders(ref.name):
        tried = tried or named
        with suppress(CheckpointError):  # damaged
            if files_digest(folder) == ref.digest[0]:
                return folder
    what = f"{ref.name} has other weights on this machine" if tried else f"{ref.name} is not on this machine"
    if Path(ref.name).is_absolute():
        raise CheckpointError(f"{what}; {_copy(ref.name)}")
    raise CheckpointError(f"{what}; run there: diffucode models {f'rm {ref.name}, then ' if tried else ''}pull {ref.name}")


def _folders(named: str) -> Iterator[tuple[Path, bool]]:
    """The folder of a name, then those of all models here, and whether it is the first."""
    folder = None
    try:
        name = full_name(named)
        folder = local_folder(name) or cached(name)
    except CheckpointError:  # a name without a model here
        pass
    if folder:
        yield folder, True
    for one in installed():
        path = one.path if one.repo is None else cached(one.repo)
        if one.whole and path:
            yield path, False


def _adapter_digest(name: str | None) -> str:
    """A hash of an adapter's files; empty without one."""
    if name is None:
        return ""
    folder = resolve_adapter(name)
    files = [file for file in (folder / ADAPTER_CONFIG, *(folder / one for one in ADAPTER_WEIGHTS)) if file.is_file()]
    return hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest()


def _copy(folder: str) -> str:
    return f"run on the first machine: rsync -a {folder}/ MACHINE:{folder}/"
