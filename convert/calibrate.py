"""Calibrated bits: choose each layer's width by its effect at masked positions.

The answers of the calibration texts are masked at several ratios. Each layer is quantized alone, at every
number of bits, and its KL to the unquantized model is measured. Then the widths are chosen that fit the
target size with the lowest total KL.

Two approximations:
- Group sizes that were not measured are scaled by the ratio of the weights' squared errors.
- The KLs of single layers are added up, although layers interact. So the cheapest allocation is only the
  start of a search: bytes move from one layer to another, the most promising swaps first, and a swap is
  kept if the measured KL of all layers together falls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.data import Text
from mlx_diffucoder.divergence.kl import Divergence, NotANumber
from mlx_diffucoder.divergence.masking import Masked, masked_canvases
from mlx_diffucoder.errors import CheckpointError, ConfigError
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.tokenizer import Tokenizer

from .adapters import Adapter
from .allocate import Choice, allocate, swaps
from .plan import Calibration, Width
from .sensitivity import Probe, mean_kl, quantized, rounded

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (64, 32, 128)
"""Group sizes. The first that divides a row is measured."""
TRIES = 40
"""Number of swaps to measure; each is a pass through the whole network."""
ROWS = 4096
"""Rows of a weight used to estimate its squared error."""

Tell = Callable[[int, int], None]
"""Called with the work done so far and the total."""
MakeProbe = Callable[[Callable[[], DiffusionModel], Sequence[Masked], mx.array, Callable[[int], None]], Probe]
"""Makes a `Probe` of its attributes."""


@dataclass(frozen=True)
class Layer:
    """A layer that can be quantized.

    Attributes:
        sizes: bytes of its weight at each width; None means not quantized.
    """

    name: str
    sizes: Mapping[Width | None, int]

    @property
    def measured(self) -> list[Width]:
        """The widths to measure."""
        group = next(width.group_size for width in self.sizes if width)
        return [width for width in self.sizes if width and width.group_size == group]

    def costs(self, weight: mx.array, alone: Mapping[Width, float]) -> dict[Width | None, float]:
        """The KL of every width, from the measured ones in `alone`."""
        costs: dict[Width | None, float] = {None: 0.0}
        errors = {width: _error(weight, width) for width in self.sizes if width}
        for width, error in errors.items():
            like = next(one for one in alone if one.bits == width.bits)
            costs[width] = alone[like] * (error / errors[like] if errors[like] else 1.0)
        return costs


class Calibrator:
    """Measures a checkpoint's layers once, then chooses widths for any target size.

    Args:
        folder: a checkpoint that is not quantized.
        dtype: the dtype that weights are quantized from; None keeps their own.
        adapter: what to add to the weights; None for nothing.
        texts: at least one, in the checkpoint's ids.
        tell: called with the progress.
        probe: measures, here by default.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        texts: Sequence[Text],
        *,
        dtype: mx.Dtype | None = None,
        adapter: Adapter | None = None,
        tell: Tell | None = None,
        probe: MakeProbe = Probe,
    ):
        self._folder, self._dtype, self._adapter, self._tell = folder, dtype, adapter, tell
        self._done = self._total = 0
        model = self._open()
        self.layers = _layers(model)
        weights: Any = tree_flatten(model.parameters())
        self.parameters = sum(value.size for _, value in weights)
        self._rest = sum(value.nbytes for _, value in weights) - sum(layer.sizes[None] for layer in self.layers)
        self._texts = len(texts)
        # Canvases of equal length share a batch.
        ordered = sorted(texts, key=len)
        canvases = masked_canvases(ordered, tokenizer.mask_id)
        self._probe = probe(self._open, canvases, forbidden_ids(tokenizer, model.config.vocab_size), self._advance)

    def check(self, target_bpw: float) -> None:
        """Raise `ConfigError` if no widths give this many bits per weight. Nothing is measured."""
        if not self.layers:
            raise ConfigError(
                f"target_bpw: no layer of this checkpoint has rows that groups of {min(GROUPS)} divide; drop --target-bpw",
                field="target_bpw",
            )
        least = self._rest + sum(min(layer.sizes.values()) for layer in self.layers)
        most = self._rest + sum(layer.sizes[None] for layer in self.layers)
        if not least <= self._bytes(target_bpw) < most:
            bits = [ceil(1000 * 8 * size / self.parameters) / 1000 for size in (least, most)]
            raise ConfigError(
                f"target_bpw {target_bpw:g} cannot be reached: this checkpoint takes from {bits[0]:.3f} bits per weight"
                f" (all at {min(BITS)} bits) to {bits[1]:.3f} (unquantized)",
                field="target_bpw",
            )

    def choose(self, target_bpw: float) -> Calibration:
        """The widths for at most `target_bpw` bits per weight.

        Raises:
            ConfigError: no widths fit.
            CheckpointError: the network's output is not finite.
        """
        self.check(target_bpw)
        self._total += self._probe.work_together * (1 + TRIES)
        try:
            costs = self._costs
            choices = [[Choice(size, costs[layer.name][width]) for width, size in layer.sizes.items()] for layer in self.layers]
            numbers, found = self._search(choices, self._bytes(target_bpw) - self._rest)
        except NotANumber:
            raise CheckpointError(f"{self._folder}: the model's output is not a number (NaN): its weights are damaged") from None
        chosen = self._widths(numbers)
        return Calibration(
            target_bpw=target_bpw,
            texts=self._texts,
            canvases=found.canvases,
            positions=found.positions,
            kl=found.kl,
            order=found.order,
            sum_of_kls=sum(own[number].cost for own, number in zip(choices, numbers, strict=True)),
            widths=chosen,
            alone=self._alone,
        )

    @cached_property
    def _alone(self) -> dict[str, dict[Width, float]]:
        options = {layer.name: layer.measured for layer in self.layers}
        self._total += self._probe.work_together + self._probe.work_alone(options)
        alone: dict[str, dict[Width, float]] = {layer.name: {} for layer in self.layers}
        for name, width, kl in self._probe.alone(options):
            alone[name][width] = kl
        return alone

    @cached_property
    def _costs(self) -> dict[str, dict[Width | None, float]]:
        alone = self._alone
        weights: Any = dict(tree_flatten(self._open().parameters()))  # each is read when it is used and dropped afterwards
        return {layer.name: layer.costs(weights.pop(f"{layer.name}.weight"), alone[layer.name]) for layer in self.layers}

    def _search(self, choices: Sequence[Sequence[Choice]], budget: int) -> tuple[list[int], Divergence]:
        """The allocation with the lowest measured KL among those tried."""
        best = allocate(choices, budget)
        every = self._probe.together(self._widths(best))
        tried = [best]
        for _ in range(TRIES):
            new = next((one for one in swaps(choices, best, budget, len(tried) + 1) if one not in tried), None)
            if new is None:  # fewer swaps than tries
                self._advance(self._probe.work_together)
                continue
            tried.append(new)
            found = self._probe.together(self._widths(new))
            if mean_kl(found) < mean_kl(every):
                best, every = new, found
        return best, Divergence.of(every)

    def _widths(self, numbers: Sequence[int]) -> dict[str, Width]:
        chosen = {layer.name: list(layer.sizes)[number] for layer, number in zip(self.layers, numbers, strict=True)}
        return {name: width for name, width in chosen.items() if width}

    def _bytes(self, target_bpw: float) -> int:
        """The bytes that all weights may take."""
        # The addition keeps a whole number of bytes exact that was given as bits per weight.
        return int(target_bpw * self.parameters / 8 + 1e-6)

    def _open(self) -> Any:
        model, _ = build(self._folder)
        if self._adapter:
            self._adapter.add_to(model)
        if self._dtype:
            model.set_dtype(self._dtype)
        return model

    def _advance(self, count: int) -> None:
        self._done += count
        if self._tell:
            self._tell(self._done, self._total)


def _layers(model: Any) -> list[Layer]:
    """The layers of a model whose rows are divisible by a group size."""
    layers = []
    for name, module in model.named_modules():
        if hasattr(module, "to_quantized"):
            groups = [group for group in GROUPS if module.weight.shape[-1] % group == 0]
            widths = [Width(bits, group) for group in groups for bits in BITS]
            sizes: dict[Width | None, int] = {
                width: sum(array.nbytes for array in quantized(module.weight, width)) for width in widths
            }
            if widths:
                layers.append(Layer(name, sizes | {None: module.weight.nbytes}))
    return layers


def _error(weight: mx.array, width: Width) -> float:
    """The squared error of quantizing, over at most `ROWS` rows."""
    rows = weight[:: -(-len(weight) // ROWS)]
    return float(mx.square(rounded(rows, width).astype(mx.float32) - rows.astype(mx.float32)).sum())  # type: ignore[arg-type]
