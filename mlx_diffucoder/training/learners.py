"""Models to train: a whole model, one with random weights, or adapters on a frozen model.

A `Learner` is a model with its trainable weights marked, and functions to write and read them.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..adapter import BASE, CONFIG, GATE, KINDS, WEIGHTS, base_identity
from ..checkpoint import build
from ..config import is_number
from ..errors import CheckpointError, ConfigError, TrainError
from ..file_kinds import check_regular
from ..files import read_json
from ..formatting import format_bytes
from ..loading import DTYPES
from ..memory import bytes_of, check_fits, memory_size
from ..models import family_of
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from ..tokenizer_files import added_tokens, copy_unchanged
from .settings import check_range

DEVIATION = 0.02  # Qwen2's initializer_range
TUNES = ("full", *KINDS)
WHOLE_BYTES = (2, 4, 8)  # bits that mlx-lm's DoRA supports


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Which weights to train, and how.

    Attributes:
        tune: `full`, `lora` or `dora`.
        rank, scale, dropout: the adapters' parameters, as in mlx-lm.
        layers: add adapters to this many of the last layers; None means all.
        dtype: the dtype to compute in; None uses that of the weights, but float32 instead of float16,
            whose gradients underflow.
        unpack: hold quantized weights as floats of the same values, rounded to `dtype`. None does so only
            on a CPU, where MLX's quantized products take some fifty times longer.
        gated: let LoRA act on the rows of masks only, see `gated`.
    """

    tune: str = "full"
    rank: int = 8
    scale: float = 20.0
    dropout: float = 0.0
    layers: int | None = None
    dtype: str | None = None
    unpack: bool | None = None
    gated: bool = False

    def __post_init__(self) -> None:
        if self.tune not in TUNES:
            raise TrainError(f"tune must be one of {', '.join(TUNES)}, not {self.tune!r}", field="tune")
        if self.gated and self.tune != "lora":
            raise TrainError(f"a gate needs tune lora, not {self.tune}; turn it off with --no-gated", field="tune")
        for name, low, high in (("rank", 1, 2**12), ("scale", 0, 1e4), ("dropout", 0, 0.99), ("layers", 1, 2**12)):
            check_range(self, name, low, high)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise TrainError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}", field="dtype")


@dataclass(frozen=True, eq=False)
class Learner:
    """A model to train.

    Attributes:
        identity: the initial model and the way it is trained, JSON-ready.
        write: writes the trained weights into a folder that can be loaded.
        read: reads them again.
        made: the name, the tuning and the seed that it was made with from a checkpoint; None for random weights.
    """

    model: DiffusionModel
    tokenizer: Tokenizer
    identity: dict[str, Any]
    write: Callable[[Path, nn.Module], None]
    read: Callable[[Path], Any]
    made: "tuple[str, Tuning, int] | None" = None


def from_checkpoint(folder: Path, name: str, tuning: Tuning, seed: int, *, unread: bool = False) -> Learner:
    """The model of a checkpoint folder.

    Args:
        name: the name or path that the user gave.
        seed: seeds the adapters' initial weights.
        unread: do not read or identify the weights; for shapes only.

    Raises:
        TrainError: it is quantized and `tune` is `full`; or as `add_adapters`.
        CheckpointError, ConfigError: as `load`.
    """
    model, raw = build(folder)
    tokenizer = Tokenizer.load(folder)
    base = {"name": name, "weights": ""} if unread else base_identity(model, name)
    quantized = any(hasattr(module, "bits") for module in model.modules())
    if quantized and tuning.tune == "full":
        raise TrainError(f"{name}: its weights are quantized and cannot be trained; use --tune lora")
    if quantized and (mx.default_device().type == mx.cpu if tuning.unpack is None else tuning.unpack):
        from mlx_lm.utils import dequantize_model

        model = dequantize_model(model)
    _set_dtype(model, tuning.dtype)
    check_fits(name, bytes_of(model.parameters()), model.config.parameters)
    identity = {"base": base["weights"], "tune": tuning.tune, "dtype": _dtype_of(model)}
    if tuning.tune == "full":
        model.unfreeze()
        return replace(_whole(model, tokenizer, identity, raw, folder), made=(name, tuning, seed))
    config = add_adapters(model, tuning, seed)
    identity |= {"num_layers": config["num_layers"], **config["lora_parameters"]} | ({"gated": True} if tuning.gated else {})
    return Learner(
        model,
        tokenizer,
        identity,
        write=partial(_write_adapter, config={**config, "model": name, BASE: base}),
        read=lambda kept: _read_weights(model, kept / WEIGHTS),
        made=(name, tuning, seed),
    )


def from_scratch(path: Path, tokenizer_folder: Path, seed: int, dtype: str | None = None) -> Learner:
    """The model that a `config.json` describes, with random weights, and the tokenizer of a folder.

    Raises:
        ConfigError, CheckpointError: one of them cannot be read, or the tokenizer has ids beyond the vocabulary.
    """
    raw = read_json(path)
    try:
        added = added_tokens(tokenizer_folder)
        family = family_of(raw, added)
        config = family.read_config(raw, added)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    tokenizer = Tokenizer.load(tokenizer_folder, raw)
    if (most := int(tokenizer.known_ids.max())) >= config.vocab_size:
        raise CheckpointError(
            f"{path}: vocab_size is {config.vocab_size}, but the tokenizer in {tokenizer_folder} has the id {most}"
        )
    # Weights, gradients and the optimizer's state, in 16 bits at least. MLX crashes on sizes far beyond.
    if (needed := 8 * config.parameters) > memory_size():
        raise ConfigError(
            f"{path}: a network of this shape takes {format_bytes(needed)} or more to train, and this machine has"
            f" {format_bytes(memory_size())}; make it smaller"
        )
    deviation = raw.get("initializer_range") or DEVIATION
    if not is_number(deviation, int | float) or not 0 < deviation <= 1:
        raise ConfigError(f"{path}: initializer_range is {deviation!r}; it must be a number above 0 and at most 1")
    model = DiffusionModel(config, family)
    _initialize(model, float(deviation), mx.random.key(seed))
    _set_dtype(model, dtype)
    identity = {"base": "random", "config": raw, "tune": "full", "dtype": _dtype_of(model)}
    return _whole(model, tokenizer, identity, raw, tokenizer_folder)


def _whole(model: DiffusionModel, tokenizer: Tokenizer, identity: dict[str, Any], raw: dict[str, Any], folder: Path) -> Learner:
    settings = {**raw, "torch_dtype": _dtype_of(model)}
    write = partial(write_model, settings=settings, tokenizer=tokenizer, source=folder)
    return Learner(model, tokenizer, identity, write, read=lambda kept: model.update(build(kept)[0].parameters()))


def _read_weights(model: DiffusionModel, file: Path) -> None:
    check_regular(file)
    try:
        model.load_weights(str(file), strict=False)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None


def add_adapters(model: DiffusionModel, tuning: Tuning, seed: int) -> dict[str, Any]:
    """Add adapters to every linear layer of the last blocks, by mlx-lm. Returns their part of `adapter_config.json`.

    Raises:
        TrainError: the model has fewer layers, or bits that mlx-lm's DoRA does not support.
    """
    from mlx_lm.tuner.utils import linear_to_lora_layers

    layers = len(model.layers) if tuning.layers is None else tuning.layers
    if layers > len(model.layers):
        raise TrainError(f"layers is {layers}, but the model has only {len(model.layers)}", field="layers")
    widths = {module.bits for module in model.modules() if isinstance(module, nn.QuantizedLinear)}
    if tuning.tune == "dora" and (odd := sorted(widths - set(WHOLE_BYTES))):
        raise TrainError(f"tune dora does not support weights of {odd[0]} bits; use lora", field="tune")
    parameters = {"rank": tuning.rank, "scale": tuning.scale, "dropout": tuning.dropout}
    model.freeze()
    mx.random.seed(seed)
    linear_to_lora_layers(model=model, num_layers=layers, config=parameters, use_dora=tuning.tune == "dora")
    config = {"fine_tune_type": tuning.tune, "num_layers": layers, "lora_parameters": parameters}
    if not tuning.gated:
        return config
    from ..gated import gate_adapters

    gate_adapters(model)
    return {**config, GATE: "masks"}


@contextmanager
def without_adapter(model: DiffusionModel) -> Iterator[None]:
    """Within this context the model is its base."""
    scales = [(module, module.scale) for module in model.modules() if "lora_b" in module]
    for module, _ in scales:
        module.scale = 0.0
    try:
        yield
    finally:
        for module, scale in scales:
            module.scale = scale


def _write_adapter(folder: Path, model: nn.Module, *, config: dict[str, Any]) -> None:
    """Write adapters as mlx-lm does."""
    trained: Any = tree_flatten(model.trainable_parameters())
    mx.save_safetensors(str(folder / WEIGHTS), dict(trained), metadata={"format": "mlx"})
    (folder / CONFIG).write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")


def write_model(folder: Path, model: nn.Module, *, settings: dict[str, Any], tokenizer: Tokenizer, source: Path) -> None:
    """Write a model as a folder in the Hub's layout: weights, `config.json`, the tokenizer's files."""
    from mlx_lm.utils import save_config, save_model

    save_model(save_path=folder, model=model, donate_model=False)
    save_config(config=dict(settings), config_path=folder / "config.json")
    tokenizer.save(folder)
    copy_unchanged(source, folder)


def _initialize(model: DiffusionModel, deviation: float, key: mx.array) -> None:
    """Normal weights, scaled down where a layer adds to the residual stream (GPT-2, section 2.3); norms 1, biases 0."""
    residual = deviation / math.sqrt(2 * model.config.num_hidden_layers)
    weights = []
    parameters: Any = tree_flatten(model.parameters())
    for (name, value), own in zip(parameters, mx.random.split(key, len(parameters)), strict=True):
        if value.ndim == 1:
            weights.append((name, mx.zeros_like(value) if name.endswith("bias") else mx.ones_like(value)))
        else:
            scale = residual if "o_proj" in name or "down_proj" in name else deviation
            weights.append((name, mx.random.normal(value.shape, scale=scale, key=own)))
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())


def _set_dtype(model: DiffusionModel, dtype: str | None) -> None:
    if dtype is None and _dtype_of(model) == "float16":
        dtype = "float32"
    if dtype is not None:
        model.set_dtype(DTYPES[dtype])


def _dtype_of(model: DiffusionModel) -> str:
    return str(model.model.norm.weight.dtype).removeprefix("mlx.core.")
