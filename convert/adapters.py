"""Adapters that a conversion adds to the weights of their model, rows at a time."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_diffucoder.adapter import CONFIG, GATE, apply_adapter, decoding_of
from mlx_diffucoder.checkpoint import DECODING, build, hub_name
from mlx_diffucoder.errors import CheckpointError, ConvertError
from mlx_diffucoder.files import read_json
from mlx_diffucoder.weight_files import ADAPTER_WEIGHTS


class Adapter:
    """An adapter in the folder `adapter`, for the model in `folder`.

    Attributes:
        settings: what it adds to the model's `config.json`.

    Raises:
        CheckpointError, ConfigError: a folder cannot be loaded, the adapter belongs to another model, or a weight of it is not
            finite.
        ConvertError: it is gated.
    """

    def __init__(self, adapter: Path, folder: Path):
        model, _ = build(folder)
        apply_adapter(model, adapter, hub_name(folder))
        config = read_json(adapter / CONFIG)
        if config.get(GATE):
            raise ConvertError(
                f"{adapter}: is gated: it acts on masks only, and weights act on all tokens, so it cannot be fused; use it"
                " as it is, with generate --adapter"
            )
        _check_finite(next(adapter / name for name in ADAPTER_WEIGHTS if (adapter / name).exists()))
        decoding = decoding_of(adapter, config)
        self.settings = {} if decoding is None else {DECODING: decoding}
        self._layers: dict[str, Any] = {name: one for name, one in model.named_modules() if "lora_a" in one}

    def __contains__(self, name: str) -> bool:
        """Whether the adapter changes this weight of the model."""
        return name.endswith(".weight") and name.removesuffix(".weight") in self._layers

    def add(self, name: str, rows: mx.array, start: int, *, keep: bool = False) -> mx.array:
        """The rows `[R, in]` of a weight from row `start` on, with the adapter added, in their own type.

        Args:
            keep: after the last rows keep the weight's layer, which is otherwise dropped to free its memory.
        """
        name, stop = name.removesuffix(".weight"), start + len(rows)
        layer = self._layers[name]
        out, into = (layer.lora_a, layer.lora_b) if "embedding" in layer else (layer.lora_b.T, layer.lora_a.T)
        if stop == len(out) and not keep:
            del self._layers[name]
        change = (layer.scale * out[start:stop].astype(mx.float32)) @ into.astype(mx.float32)
        made = rows + change.astype(rows.dtype)
        if "m" in layer:  # DoRA, arXiv 2402.09353
            made = (layer.m[start:stop] / mx.linalg.norm(made.astype(mx.float32), axis=1))[:, None] * made
        return made.astype(rows.dtype)

    def add_to(self, model: nn.Module) -> None:
        """Add the adapter to all weights of a model, which are floats. Nothing is computed yet."""
        weights: Any = tree_flatten(model.parameters())
        model.load_weights([(name, self.add(name, one, 0, keep=True)) for name, one in weights if name in self], strict=False)


def _check_finite(file: Path) -> None:
    weights: Any = mx.load(str(file))
    for name in list(weights):  # each is read and dropped
        if not mx.isfinite(weights.pop(name)).all():
            raise CheckpointError(f"{file}: the weight {name} holds infinities or NaNs; download the adapter again")
