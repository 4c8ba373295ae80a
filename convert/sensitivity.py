"""Measure the effect of quantizing single layers on the distributions at masked positions.

One layer is quantized, all others stay as they are, and the canvases run through the rest of the network.
A few layers are in memory at a time. Everything is computed in float32, so that a KL of 1e-7 can be told from rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_diffucoder.divergence.forwards import (
    Outputs,
    head_of,
    outputs_by_layer,
    predicting_rows,
    replace_each,
    through,
    tokens_of,
)
from mlx_diffucoder.divergence.kl import Reading, readings
from mlx_diffucoder.divergence.masking import Masked, batches
from mlx_diffucoder.models.transformer import DiffusionModel

from .plan import Width, Widths

Options = Mapping[str, Sequence[Width]]
"""Layer -> the widths to measure."""
Hidden = list[mx.array]
"""Hidden states between two layers, `[B, L, D]` for each batch of canvases."""
Part = Callable[[DiffusionModel], Callable[[mx.array], mx.array]]
"""Returns the function that one block of a model computes."""

MOST_HELD = 2**30
"""Bytes of `Hidden` held at once, over the variants of one block."""
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


@dataclass(frozen=True, eq=False)
class Probe:
    """An unquantized model on masked canvases.

    Attributes:
        opened: returns the model with no weights read yet, in the dtype they are quantized from. Called often.
        forbidden: bool `[V]`, ids never to be generated.
        advance: called with the number of (canvas, layer) pairs that were just computed; `work_alone` and
            `work_together` give the totals.
    """

    opened: Callable[[], DiffusionModel]
    canvases: Sequence[Masked]
    forbidden: mx.array
    advance: Callable[[int], None]

    @cached_property
    def reference(self) -> Outputs:
        """The outputs of the unquantized model."""
        return outputs_by_layer(partial(self._open, {}), self.canvases, self.advance)

    def together(self, widths: Widths) -> list[Reading]:
        """Readings of the model with these widths against the unquantized model."""
        return self.readings(widths, slice(None))

    def readings(self, widths: Widths, part: slice) -> list[Reading]:
        """As `together`, on some of the batches of canvases."""
        canvases = [canvas for batch in list(batches(self.canvases))[part] for canvas in batch]
        reference = Outputs(self.reference.rows[part], self.reference.head)
        other = outputs_by_layer(partial(self._open, widths), canvases, self.advance)
        return readings(reference, other, canvases, self.forbidden)

    def alone(self, options: Options) -> Iterator[tuple[str, Width, float]]:
        """For each layer and width, the KL of quantizing only this layer, nats per masked position."""
        hidden: Hidden = [tokens_of(batch, self._model.config.block_length) for batch in batches(self.canvases)]
        positions = sum(tokens.size for tokens in hidden)
        for place, (block, part) in enumerate(self.blocks):
            wanted = _wanted(options, block)
            most = max(1, MOST_HELD // (4 * positions * self._model.config.hidden_size))
            for start in range(0, len(wanted), most):
                some = wanted[start : start + most]
                variants = self._onwards(self._variants(part, some, hidden), place)
                for (name, width), variant in zip(some, variants, strict=True):
                    tied = {name: width} if place == 0 and self._model.config.tie_word_embeddings else {}
                    yield name, width, self._kl(variant, tied)
            hidden = self._through(part(self._open({})), hidden)
        for width in options.get(HEAD, ()):
            yield HEAD, width, self._kl(hidden, {HEAD: width})

    def work_alone(self, options: Options) -> int:
        count = len(self.blocks)
        onwards = sum(len(_wanted(options, block)) * (count - place) for place, (block, _) in enumerate(self.blocks))
        return len(self.canvases) * (count + onwards)

    @property
    def work_together(self) -> int:
        return len(self.canvases) * (len(self.blocks) - 1)

    @cached_property
    def _model(self) -> DiffusionModel:
        """For its configuration: its weights are never read."""
        return self.opened()

    @cached_property
    def blocks(self) -> list[tuple[str, Part]]:
        """All blocks but the head, in forward order."""
        layers = ((f"model.layers.{index}", partial(_layer, index)) for index in range(self._model.config.num_hidden_layers))
        return [(EMBEDDING, lambda model: model.model.embed_tokens), *layers]

    def _variants(self, part: Part, some: Sequence[tuple[str, Width]], hidden: Hidden) -> list[Hidden]:
        """The block's output for `hidden` with one layer quantized at a time; each weight is restored afterwards."""
        model = self._open({})
        function, modules = part(model), dict[str, Any](model.named_modules())
        sources = dict[str, Any](self.opened().named_modules())
        made = []
        for name, width in some:
            kept = modules[name].weight
            modules[name].weight = rounded(sources[name].weight, width).astype(mx.float32)
            made.append(self._through(function, hidden))
            modules[name].weight = kept
        return made

    def _onwards(self, variants: list[Hidden], first: int) -> list[Hidden]:
        """Run every variant through the blocks after `first`; each block is read once."""
        for _, part in self.blocks[first + 1 :]:
            function = part(self._open({}))
            variants = [self._through(function, variant) for variant in variants]
            del function
            mx.clear_cache()
        return variants

    def _through(self, function: Callable[[mx.array], mx.array], hidden: Hidden) -> Hidden:
        made = list(hidden)
        replace_each(made, function)
        self.advance(len(self.canvases))
        return made

    def _kl(self, hidden: Hidden, widths: Widths) -> float:
        """The KL for hidden states after the last layer; `widths` are those of the head."""
        rows = tuple(
            predicting_rows(one, batch, self._model.shift) for one, batch in zip(hidden, batches(self.canvases), strict=True)
        )
        head = head_of(self._open(widths), mx.float32) if widths else self.reference.head
        return mean_kl(readings(self.reference, Outputs(rows, head), self.canvases, self.forbidden))

    def _open(self, widths: Widths) -> DiffusionModel:
        """The model in float32 with some layers rounded to their widths. Nothing is read or computed yet."""
        model = self.opened()
        modules = dict[str, Any](model.named_modules())
        for name, width in widths.items():
            modules[name].weight = rounded(modules[name].weight, width)
        model.set_dtype(mx.float32)
        return model


def rounded(weight: mx.array, width: Width) -> mx.array:
    """A weight after quantizing and dequantizing, in its own dtype."""
    arrays: Any = quantized(weight, width)
    return mx.dequantize(*arrays, **asdict(width))


def quantized(weight: mx.array, width: Width) -> Sequence[mx.array]:
    """The arrays of the quantized weight."""
    return mx.quantize(weight, **asdict(width))


def mean_kl(every: Sequence[Reading]) -> float:
    """The mean KL, nats per masked position."""
    return float(np.concatenate([reading.kl for reading in every]).mean(dtype=np.float64))


def _layer(index: int, model: DiffusionModel) -> Callable[[mx.array], mx.array]:
    return partial(through, model.layers[index], index, model.config.block_length)


def layers_of(options: Options, block: str) -> list[str]:
    """The layers of a block that have widths to measure."""
    return [name for name in options if name == block or name.startswith(f"{block}.")]


def _wanted(options: Options, block: str) -> list[tuple[str, Width]]:
    """The layers of a block, each with the widths to measure."""
    return [(name, width) for name in layers_of(options, block) for width in options[name]]
