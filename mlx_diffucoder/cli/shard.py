"""`--shard`: a model divided among the processes that `mlx.launch` starts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, one_of
from .options import SHARDS

if TYPE_CHECKING:
    from ..bench.subjects import Shared
    from ..models.sharded import SharedModel
    from ..sharding import Plan
    from ..tokenizer import Tokenizer


def load_divided(given: Mapping[str, Any]) -> "tuple[str, Any, Tokenizer]":
    """The name of the model that a command's parameters name, this process's part of it, and the tokenizer."""
    from ..loading import check_dtype
    from ..sharding import load_leading
    from .progress import waiting

    check_dtype(given["dtype"])
    name, plan = _plan(given)
    with waiting(f"loading {name}"):
        return name, *load_leading(name, plan, given["dtype"], check_memory=not given["yes"])


def described(given: Mapping[str, Any], model: "SharedModel") -> "Shared":
    """How a model that `load_divided` returned is computed, for a benchmark."""
    from ..bench.subjects import Shared
    from ..sharding import described

    plan = _plan(given)[1]
    return Shared(plan.shard, model, *described(plan, model))


def follow(given: Mapping[str, Any]) -> int:
    """Compute a part of the model that a command's parameters name, as rank 0 says, until rank 0 ends."""
    from ..decoding.windows.cache import AppendedKVCache
    from ..models.sharded import follow as follow_calls
    from ..sharding import load_following

    follow_calls(load_following(lambda: _plan(given)[1]), [AppendedKVCache])
    return 0


def _plan(given: Mapping[str, Any]) -> "tuple[str, Plan]":
    """The name of the model that a command's parameters name, and what is computed together."""
    from ..sharding import Plan
    from .model_option import ModelOption, adapter_named, folder_named

    if given["shard"] not in SHARDS:
        raise ConfigError(f"--shard must be {one_of(SHARDS, given['shard'])}", field="--shard")
    wanted = ModelOption.of(given)
    adapter = adapter_named(given.get("adapter"), wanted)
    name, folder = folder_named(wanted)
    return name, Plan(folder, given["shard"], adapter)
