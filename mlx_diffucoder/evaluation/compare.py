"""Compare checkpoints with a base on the same masked canvases, with one of them in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import mlx.core as mx

from ..checkpoint import build, shards
from ..divergence.forwards import Outputs, outputs, outputs_by_layer
from ..divergence.kl import Divergence, NotANumber, Reading, readings
from ..divergence.masking import Masked
from ..errors import CheckpointError
from ..forbidden import forbidden_ids
from ..loading import DTYPES, default_dtype
from ..memory import bytes_of, fit_of
from ..models.base import ModelConfig
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer

Advance = Callable[[float], None]
"""Called with the number of canvases that were just computed, as a fraction where layers are read one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A checkpoint folder to compare; its weights are not read yet.

    Attributes:
        name: its name in messages and tables.
        dtype: the dtype to compute in, as for `load`.
        bytes_on_disk: bytes of its weight files.
        bits_per_weight: stored bits per weight, scales included.
        memory: bytes of memory that its weights take.
    """

    name: str
    folder: Path
    dtype: str | None
    config: ModelConfig
    tokenizer: Tokenizer
    bytes_on_disk: int
    bits_per_weight: float
    memory: int

    @classmethod
    def of(cls, name: str, folder: Path, dtype: str | None = None) -> Self:
        """Describe a folder. Raises `CheckpointError` or `ConfigError`, as `load` does."""
        model, _ = build(folder)
        bits = 8 * bytes_of(model.parameters()) / model.config.parameters
        dtype = dtype or default_dtype(model)
        return cls(
            name=name,
            folder=folder,
            dtype=dtype,
            config=model.config,
            tokenizer=Tokenizer.load(folder),
            bytes_on_disk=sum(file.stat().st_size for file in shards(folder)),
            bits_per_weight=bits,
            memory=bytes_of(_cast(model, dtype).parameters()),
        )

    @property
    def fits(self) -> bool:
        """Whether this machine can hold its weights and compute with them."""
        return fit_of(self.memory) == "fits"

    @cached_property
    def forbidden(self) -> mx.array:
        """Bool `[V]`, ids never to be generated."""
        return forbidden_ids(self.tokenizer, self.config.vocab_size)

    def open(self) -> DiffusionModel:
        """Its model, with no weights read yet."""
        return _cast(build(self.folder)[0], self.dtype)


def _cast(model: DiffusionModel, dtype: str | None) -> DiffusionModel:
    if dtype is not None:
        model.set_dtype(DTYPES[dtype])
    return model


def check_comparable(base: Checkpoint, other: Checkpoint) -> None:
    """Raise `CheckpointError` unless both use the same token ids."""
    difference = ""
    if base.tokenizer.vocabulary != other.tokenizer.vocabulary:
        mine, theirs = (set(one.tokenizer.vocabulary.items()) for one in (base, other))
        token, id = min(mine ^ theirs, key=lambda pair: (pair[1], pair[0]))
        whose = base if (token, id) in mine else other
        difference = f"only {whose.name} has {token!r} as id {id}"
    elif base.tokenizer.mask_id != other.tokenizer.mask_id:
        difference = f"the mask token is {base.tokenizer.mask_id} in one and {other.tokenizer.mask_id} in the other"
    elif base.config.vocab_size != other.config.vocab_size:
        difference = f"the vocab_size is {base.config.vocab_size} in one and {other.config.vocab_size} in the other"
    if difference:
        raise CheckpointError(
            f"{other.name}: cannot be compared with {base.name}, their tokenizers differ: {difference};"
            " compare conversions of the same model"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The divergence of a checkpoint from the base: for each masked share, and over all canvases."""

    by_ratio: dict[float, Divergence]
    overall: Divergence

    @classmethod
    def of(cls, every: Sequence[Reading]) -> Self:
        """The means of at least one reading."""
        ratios = sorted({reading.canvas.ratio for reading in every})
        return cls(
            by_ratio={ratio: Divergence.of([one for one in every if one.canvas.ratio == ratio]) for ratio in ratios},
            overall=Divergence.of(every),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; its ratios are strings."""
        return {**asdict(self.overall), "by_ratio": {f"{ratio:g}": asdict(one) for ratio, one in self.by_ratio.items()}}


def compare(
    base: Checkpoint,
    others: Sequence[Checkpoint],
    canvases: Sequence[Masked],
    *,
    by_layer: bool | None = None,
    advance: Advance | None = None,
) -> Iterator[Comparison]:
    """Compare each of `others` with `base`, in turn. The arguments and errors are those of `readings_of`."""
    return map(Comparison.of, readings_of(base, others, canvases, by_layer=by_layer, advance=advance))


def readings_of(
    base: Checkpoint,
    others: Sequence[Checkpoint],
    canvases: Sequence[Masked],
    *,
    by_layer: bool | None = None,
    advance: Advance | None = None,
) -> Iterator[list[Reading]]:
    """Readings of each of `others` against `base`, in turn.

    Of the base only its rows at masked positions and its head are kept, so two models are never in memory at once.

    Args:
        others: checkpoints that pass `check_comparable`.
        canvases: at least one, in the base's ids.
        by_layer: hold at most one layer in memory. None does so only for models that do not fit.

    Raises:
        CheckpointError: a network's output is not finite.
    """
    reference = _outputs(base, canvases, by_layer, advance)
    for other in others:
        found = _outputs(other, canvases, by_layer, advance)
        try:
            every = readings(reference, found, canvases, base.forbidden)
        except NotANumber as error:
            raise CheckpointError(
                f"{(base if error.reference else other).name}: the model's output is not a number: its weights are damaged, or"
                " their range is too wide for float16 (try --dtype float32)"
            ) from None
        yield every
        del found, every  # before the next model is read


def _outputs(checkpoint: Checkpoint, canvases: Sequence[Masked], by_layer: bool | None, advance: Advance | None) -> Outputs:
    layers = checkpoint.config.num_hidden_layers
    tell = None if advance is None else lambda count: advance(count / layers)
    if not checkpoint.fits if by_layer is None else by_layer:
        return outputs_by_layer(checkpoint.open, canvases, tell)
    return outputs(checkpoint.open(), canvases, tell)
