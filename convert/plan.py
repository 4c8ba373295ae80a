"""The plan of a conversion, layer by layer, as plain values. It is known from headers, before any weight is read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_diffucoder.memory import memory_to_run


@dataclass(frozen=True)
class Width:
    """How the weights of a layer are quantized."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __str__(self) -> str:
        return f"{self.bits} bits, {self.mode}, groups of {self.group_size}"


Widths = Mapping[str, Width]
"""Layer path -> how the layer is quantized. Layers that are not named are not quantized."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Widths chosen by calibration, with its measurements.

    Attributes:
        target_bpw: the allowed bits per weight of the whole model.
        texts, canvases, positions: the size of the measurement.
        kl: KL to the unquantized model with all layers quantized, nats per masked position.
        order: share of pairs of masks that both models commit in the same order.
        sum_of_kls: the estimate of `kl` that the widths were first chosen by.
        widths: the chosen widths; layers that are not named stay unquantized.
        alone: the KL of quantizing only this layer, for each layer and width.
    """

    target_bpw: float
    texts: int
    canvases: int
    positions: int
    kl: float
    order: float | None
    sum_of_kls: float
    widths: Widths
    alone: Mapping[str, Mapping[Width, float]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, with each layer's KL by width."""
        numbers = ("target_bpw", "texts", "canvases", "positions", "kl", "order", "sum_of_kls")
        alone = {name: {str(width.bits): kl for width, kl in own.items()} for name, own in self.alone.items()}
        return {**{name: getattr(self, name) for name in numbers}, "kl_alone": alone}


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a plan: its path, its parameters, how they will be stored, and their bytes before and after.

    A quantized layer has a `width`, any other a `dtype`. `quantizable` says whether MLX can quantize
    this kind of layer, whatever the length of its rows.
    """

    name: str
    parameters: int
    width: Width | None
    dtype: str | None
    bytes_in: int
    bytes_out: int
    quantizable: bool


@dataclass(frozen=True)
class Plan:
    """What a conversion will write: every layer in model order, and the calibration if there was one."""

    layers: tuple[LayerPlan, ...]
    calibration: Calibration | None = None

    @property
    def bytes_in(self) -> int:
        return sum(layer.bytes_in for layer in self.layers)

    @property
    def bytes_out(self) -> int:
        return sum(layer.bytes_out for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes_out / self.parameters

    @property
    def memory_to_run(self) -> int:
        """Estimated bytes of memory for a generation."""
        return memory_to_run(self.bytes_out)

    @property
    def widths(self) -> Widths:
        return {layer.name: layer.width for layer in self.layers if layer.width}

    @property
    def left(self) -> list[str]:
        """The layers that stay unquantized because of their rows or the recipe."""
        return [layer.name for layer in self.layers if layer.quantizable and not layer.width]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        totals = ("parameters", "bytes_in", "bytes_out", "bits_per_weight", "memory_to_run")
        chosen = {"calibration": self.calibration.to_dict()} if self.calibration else {}
        layers = [asdict(layer) for layer in self.layers]
        return {**{name: getattr(self, name) for name in totals}, **chosen, "layers": layers}


def widths_of(model: nn.Module) -> dict[str, Width]:
    """The quantized layers of a model."""
    return {name: Width(one.bits, one.group_size, one.mode) for name, one in _leaves(model) if hasattr(one, "bits")}


def plan_of(before: Mapping[str, mx.array], model: nn.Module) -> Plan:
    """The plan that turns the weights `before` into those of `model`. Only shapes and dtypes are read."""
    widths = widths_of(model)
    layers = []
    for name, module in _leaves(model):
        parameters: Any = tree_flatten(module.parameters())
        width = widths.get(name)
        packed = ("weight", "scales", "biases") if width else ()
        plain = [value for key, value in parameters if key not in packed]
        count = sum(value.size for value in plain)
        layers.append(
            LayerPlan(
                name=name,
                parameters=count + (module.weight.size * 32 // width.bits if width else 0),
                width=width,
                dtype=None if width else str(module.weight.dtype).removeprefix("mlx.core."),
                bytes_in=sum(value.nbytes for key, value in before.items() if key.rpartition(".")[0] == name),
                bytes_out=sum(value.nbytes for _, value in parameters),
                quantizable=hasattr(module, "to_quantized") or width is not None,
            )
        )
    return Plan(tuple(layers))


def _leaves(model: nn.Module) -> Any:
    return tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
