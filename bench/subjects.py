"""What a benchmark measures: a model from a checkpoint, or one of random weights made in memory."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_diffucoder.checkpoint import read_model_config, weights_digest
from mlx_diffucoder.choices import TILE
from mlx_diffucoder.errors import BenchError, CheckpointError
from mlx_diffucoder.hub import cached
from mlx_diffucoder.loading import DTYPES, POCKET, defaults_to_float32, resolve
from mlx_diffucoder.memory import bytes_of, check_fits, keep_resident
from mlx_diffucoder.models.base import Family, ModelConfig
from mlx_diffucoder.models.dream import DREAM
from mlx_diffucoder.models.sharded import SharedModel
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.tokenizer import Tokenizer

from .roofline import Work
from .shapes import SHAPES, bits_per_weight, dimensions

GROUP_SIZE = 64
"""Weights that share a quantization scale."""


@dataclass(frozen=True)
class Shared:
    """How several processes compute a model.

    Attributes:
        shard: `tensor` or `sequence`.
        model: this process's part.
        whole: the whole network, its weights not read.
        digest: its `weights_digest`.
    """

    shard: str
    model: SharedModel
    whole: DiffusionModel
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, with what an exchange costs, which is measured."""
        tensor, layers = self.shard == "tensor", self.model.config.num_hidden_layers
        rows = TILE if tensor else 2 * TILE
        return {
            "shard": self.shard,
            "ranks": self.model.link.size,
            "exchanges": 2 * layers + 3 if tensor else layers + 1,
            "exchange_rows": rows,
            "exchange_seconds": self.model.exchange_seconds(rows),
        }


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: for people: a folder, a Hub id, or a shape.
        random: whether its weights are random; then its times are valid and its answers mean nothing.
        shared: of a model that several processes compute, how; None for one process.
    """

    name: str
    model: DiffusionModel
    tokenizer: Tokenizer
    random: bool
    shared: "Shared | None" = None

    @property
    def work(self) -> Work:
        """All of its weights."""
        count = self.model.config.parameters
        return Work(parameters=count, bits_per_weight=8 * bytes_of(self._whole.parameters()) / count)

    @property
    def _whole(self) -> DiffusionModel:
        return self.shared.whole if self.shared else self.model

    @property
    def forwarded(self) -> Work:
        """The weights that a forward reads and multiplies: of an embedding table it reads a few rows only."""
        return without_embeddings(self._whole, self.work)

    def to_dict(self) -> dict[str, Any]:
        """What two runs must share to be comparable, ready for JSON."""
        work, forwarded = self.work, self.forwarded
        return {
            "name": self.name,
            "random": self.random,
            "weights": None if self.random else self.shared.digest if self.shared else weights_digest(self.model),
            "shape": dimensions(self.model.config),
            "parameters": work.parameters,
            "bytes": int(work.bytes),
            "forward_parameters": forwarded.parameters,
            "forward_bytes": int(forwarded.bytes),
            "bits_per_weight": work.bits_per_weight,
            "dtype": str(self.model.model.norm.weight.dtype).removeprefix("mlx.core."),
        }


def without_embeddings(model: Any, work: Work) -> Work:
    """`work` less the embedding table of a model with Qwen2's weight names, unless the table is `lm_head` too."""
    table = getattr(getattr(model, "model", None), "embed_tokens", None)
    if table is None or "lm_head" not in model:
        return work
    count = work.parameters - len(table.weight) * model.model.norm.weight.size
    return Work(parameters=count, bits_per_weight=8 * (work.bytes - bytes_of(table.parameters())) / count)


def random_subject(shape: str, bits: int, dtype: str | None, layers: int | None = None, seed: int = 0) -> Subject:
    """A model of random weights, drawn and quantized in memory one matrix at a time. Its tokenizer is that of `pocket`.

    Args:
        shape: a name of `SHAPES`, or a checkpoint on this machine, of which only `config.json` is read.
        bits: of a quantized weight; 16 keeps floats of `dtype`.
        dtype: to compute in; None for float32 on a CPU, as `load` chooses it, otherwise bfloat16.
        layers: fewer layers than the shape has; None takes all.

    Raises:
        BenchError: there is no such shape, or its sizes cannot be quantized.
        CheckpointError: it does not fit into memory.
    """
    stored = bits_per_weight(bits)  # refuses other widths
    tokenizer = Tokenizer.load(resolve(POCKET))
    family, config = _shape(shape)
    config = replace(config, mask_token_id=tokenizer.mask_id)
    if config.vocab_size < len(tokenizer.known_ids):
        raise BenchError(f"--shape {shape}: its vocabulary of {config.vocab_size} is smaller than that of {POCKET}")
    if bits < 16 and (config.hidden_size % GROUP_SIZE or config.intermediate_size % GROUP_SIZE):
        raise BenchError(f"--shape {shape}: its sizes are not multiples of {GROUP_SIZE} and cannot be quantized; use --bits 16")
    every, config = config.num_hidden_layers, replace(config, num_hidden_layers=layers or config.num_hidden_layers)
    if dtype is None:
        in_float32 = int(config.parameters * (stored if bits < 16 else 32) / 8)
        dtype = "float32" if defaults_to_float32(in_float32) else "bfloat16"
    kind = f"{bits} bits" if bits < 16 else dtype
    name = f"{shape}, {kind}, random weights" + (f", layers: {layers} of {every}" if layers else "")
    stored = stored if bits < 16 else 8 * DTYPES[dtype].size
    size = config.parameters * stored / 8
    check_fits(name, size, config.parameters)
    keep_resident(int(size))
    return Subject(name, drawn(config, bits, dtype, seed, family), tokenizer, random=True)


def drawn(config: ModelConfig, bits: int, dtype: str, seed: int = 0, family: Family = DREAM) -> DiffusionModel:
    """A model of random weights, drawn and quantized one matrix at a time; the arguments as for `random_subject`."""
    mx.random.seed(seed)
    model = DiffusionModel(config, family)  # lazy: nothing is computed yet
    model.set_dtype(DTYPES[dtype])
    if bits < 16:
        nn.quantize(model, group_size=GROUP_SIZE, bits=bits)
    model.eval()
    leaves: Any = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    for _, module in leaves:
        mx.eval(module.parameters())
        mx.clear_cache()
    return model


def _shape(name: str) -> tuple[Family, ModelConfig]:
    if name in SHAPES:
        return SHAPES[name].family, SHAPES[name].config
    folder = found_here(name)
    if folder is None:
        known = ", ".join(SHAPES)
        raise BenchError(
            f"--shape must be {known}, {POCKET}, a checkpoint folder or one in the Hub's cache, not {name!r}", field="--shape"
        )
    return read_model_config(folder)[:2]


def found_here(name: str) -> Path | None:
    """The folder of a checkpoint on this machine: the bundled one, a folder, or a Hub id in the cache; None if there is none."""
    path = Path(name).expanduser()
    if name == POCKET or path.is_dir():
        return resolve(name)
    try:
        return cached(name)
    except CheckpointError:  # not a Hub id
        return None
