"""From a name to a model: the bundled checkpoint, a folder, or the Hugging Face Hub."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from . import hub
from .adapter import apply_adapter
from .catalogue import CATALOGUE
from .checkpoint import build, hub_name
from .device import apple_generation
from .errors import CheckpointError, ConfigError, did_you_mean, one_of
from .hub import Download, Progress
from .installed import converted, full_name
from .memory import bytes_of, check_fits, keep_resident, memory_size
from .models.transformer import DiffusionModel
from .tokenizer import Tokenizer
from .weight_files import ADAPTER_CONFIG

DEFAULT_MODEL = CATALOGUE[0].converted[8]
"""The model of the command line when you name none."""
POCKET = "pocket"
"""The name of the bundled checkpoint, which is never downloaded."""
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    name: str | os.PathLike[str] = POCKET,
    *,
    dtype: str | None = None,
    lazy: bool = False,
    adapter: str | os.PathLike[str] | None = None,
    check_memory: bool = True,
) -> tuple[DiffusionModel, Tokenizer]:
    """Load a model and its tokenizer.

    Args:
        name: `"pocket"`, a folder (the Hub's original layout or mlx-lm's converted one), or a Hub id: `"owner/name"`
            or `"owner/name@revision"`, or a name that `diffucode models` lists.
        dtype: the type to compute in, `"float32"`, `"float16"` or `"bfloat16"`; None for `default_dtype`. Of
            quantized weights only the scales change.
        lazy: leave each weight in its file until it is first needed.
        adapter: an adapter of this model, as `diffucode train` or PEFT writes it: a folder, or a Hub id as in `name`.
        check_memory: refuse weights that take more memory than a program may use here, before they are read.

    Raises:
        HubError: the Hub cannot be reached or does not have the name.
        CheckpointError, ConfigError: a folder is incomplete, damaged, or of no family that is known; its weights do
            not fit into memory; or the adapter is damaged, or another model's.
    """
    check_dtype(dtype)
    adapter = None if adapter is None else resolve_adapter(adapter)  # first: it is small, and its name may be wrong
    folder = resolve(name)
    model, _ = build(folder)
    tokenizer = Tokenizer.load(folder)
    if adapter is not None:
        apply_adapter(model, adapter, hub_name(folder))
    chosen = dtype or default_dtype(model)
    if chosen is not None:
        model.set_dtype(DTYPES[chosen])
    if dtype is None and chosen == "float16":
        model.widen = partial(_read_floats, folder=folder, adapter=adapter)
    if not lazy:
        size = bytes_of(model.parameters())
        if check_memory:
            check_fits(os.fspath(name), size, model.config.parameters)
        keep_resident(size)
        mx.eval(model.parameters())
    return model, tokenizer


def default_dtype(model: DiffusionModel) -> str | None:
    """The type to compute in when the user names none; None for the type of the weights.

    On a CPU it is float32, which is the fastest type there, if the weights then take at most half of the memory. On M1 and
    M2, which emulate bfloat16, it is float16 for quantized weights with scales of bfloat16.
    """
    weights: Any = tree_flatten(model.parameters())
    if any(name.endswith(".scales") and one.dtype == mx.bfloat16 for name, one in weights) and apple_generation() in (1, 2):
        return "float16"
    sizes = [one.size * 4 if mx.issubdtype(one.dtype, mx.floating) else one.nbytes for _, one in weights]
    return "float32" if defaults_to_float32(sum(sizes)) else None


def _read_floats(model: DiffusionModel, folder: Path, adapter: str | os.PathLike[str] | None) -> None:
    """Put the floating-point weights of a folder and an adapter into a model, in the types of the files."""
    again, _ = build(folder)
    if adapter is not None:
        apply_adapter(again, Path(adapter), hub_name(folder))
    weights: Any = tree_flatten(again.parameters())
    model.load_weights([(name, one) for name, one in weights if mx.issubdtype(one.dtype, mx.floating)], strict=False)
    mx.eval(model.parameters())


def defaults_to_float32(size: int) -> bool:
    """Whether weights that take `size` bytes in float32 are computed with in float32 when the user names no type."""
    return mx.default_device().type == mx.DeviceType.cpu and size <= memory_size() // 2


def check_dtype(dtype: str | None) -> None:
    """Raise `ConfigError` unless `dtype` is None or one of `DTYPES`."""
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype must be {one_of(list(DTYPES), dtype)}", field="dtype")


def resolve(
    name: str | os.PathLike[str],
    *,
    refresh: bool = False,
    before_download: Callable[[Download], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a model, downloaded first if it is on the Hub and not in its cache.

    Args:
        refresh, before_download, progress: as for `hub.fetch_model`; a folder has no use for them.

    Raises:
        CheckpointError, ConfigError: the name is neither a folder nor a Hub id, or the repository has no such model.
        HubError: the Hub cannot be reached or does not have the model.
    """
    name = full_name(name)
    if (folder := local_folder(name)) is not None:
        return folder
    return hub.fetch_model(name, refresh=refresh, before_download=before_download, progress=progress)


def resolve_adapter(
    name: str | os.PathLike[str],
    *,
    refresh: bool = False,
    before_download: Callable[[Download], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of an adapter. As `resolve`."""
    folder = _existing(name)
    if folder is None and hub.parse_id(os.fspath(name)):
        return hub.fetch_adapter(os.fspath(name), refresh=refresh, before_download=before_download, progress=progress)
    if folder is None or not (folder / ADAPTER_CONFIG).exists():
        lacks = "no such folder" if folder is None else f"has no {ADAPTER_CONFIG}" if folder.is_dir() else "is not a folder"
        raise CheckpointError(
            f'{name}: {lacks}; an adapter is a folder with {ADAPTER_CONFIG} and its weights, or a Hub id ("owner/name")'
        )
    return folder


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The folder of the bundled model, of a path that exists or of a conversion's name; None for a Hub id.

    Raises:
        CheckpointError: the name is neither a folder nor a Hub id.
    """
    if name == POCKET:
        return Path(__file__).parent / "pocket"
    name = os.fspath(name)
    if folder := _existing(name) or converted(name):
        return folder
    if hub.parse_id(name) is None:
        near = did_you_mean(name, known_models())
        raise CheckpointError(
            f'{name}: no such folder, and not a Hub id ("owner/name"), "{POCKET}" or a name of `diffucode models`{near}'
        )
    return None


def _existing(name: str | os.PathLike[str]) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long, no permission, no such user
        raise CheckpointError(f"{os.fspath(name)[:200]}: cannot be read ({_first_line(error)})") from None


def known_models() -> list[str]:
    """Names for `load`: the bundled model, the default, those in the Hub's cache that run, and those of the catalogue."""
    return list(dict.fromkeys((POCKET, DEFAULT_MODEL, *hub.cached_models(), *(one.short_name for one in CATALOGUE))))


def source_card(folder: Path) -> dict[str, Any]:
    """The metadata of a checkpoint's model card (licence, base model); empty where it has none that can be read."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(folder / "README.md").data.to_dict()
    except Exception:  # no card, no YAML, no text: the library documents no classes
        return {}


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
