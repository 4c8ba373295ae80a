"""`--shard`: a model divided among the processes that `mlx.launch` starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, one_of
from .options import SHARDS

if TYPE_CHECKING:
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer


def load_divided(given: Mapping[str, Any]) -> "tuple[str, DiffusionModel, Tokenizer]":
    """The name of the model that a command's parameters name, this process's part of it, and the tokenizer."""
    from ..loading import check_dtype
    from ..sharding import load_leading
    from .progress import waiting

    check_dtype(given["dtype"])
    if given.get("adapter") is not None:
        raise ConfigError("--shard divides no adapter; put it into the weights first: diffucode fuse", field="--shard")
    name, folder = _folder(given)
    with waiting(f"loading {name}"):
        return name, *load_leading(name, folder, given["dtype"], check_memory=not given["yes"])


def follow(given: Mapping[str, Any]) -> int:
    """Compute a part of the model that a command's parameters name, as rank 0 says, until rank 0 ends."""
    from ..decoding.windows.cache import AppendedKVCache
    from ..models.sharded import follow as follow_calls
    from ..sharding import load_following

    follow_calls(load_following(_folder(given)[1]), [AppendedKVCache])
    return 0


def _folder(given: Mapping[str, Any]) -> tuple[str, Path]:
    from .model_option import ModelOption, folder_named

    if given["shard"] not in SHARDS:
        raise ConfigError(f"--shard must be {one_of(SHARDS, given['shard'])}", field="--shard")
    return folder_named(ModelOption.of(given))
