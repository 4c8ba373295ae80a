"""`diffucode convert --calibrate` over several machines.

Layers quantized alone are spread by the block that they are in. All layers together are spread by canvases.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from ..checkpoint import build
from ..convert.adapters import Adapter
from ..convert.plan import Width, Widths
from ..convert.sensitivity import HEAD, Options, Probe, layers_of
from ..divergence.kl import Reading
from ..divergence.masking import Masked
from ..forbidden import forbidden_ids
from ..loading import DTYPES, resolve_adapter
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .compare import parts_of
from .machines import Machines
from .models import ModelRef, folder_of, kept


@dataclass(frozen=True)
class ProbeRef:
    """A probe as the first machine names it to the others."""

    name: str
    model: ModelRef
    canvases: list[Masked] = field(compare=False, repr=False)

    def probe(self) -> Probe:
        """It, on a worker."""
        return kept(self, self._probe)

    def _probe(self) -> Probe:
        folder = folder_of(self.model)
        forbidden = forbidden_ids(Tokenizer.load(folder), build(folder)[0].config.vocab_size)
        adapter = Adapter(resolve_adapter(self.model.adapter), folder) if self.model.adapter else None
        return Probe(partial(_opened, folder, self.model.dtype, adapter), self.canvases, forbidden, lambda count: None)


@dataclass(frozen=True, eq=False)
class SpreadProbe(Probe):
    """As `Probe`, with the same numbers.

    Attributes:
        machines: where layers are measured.
        name, adapter: of the model, for `load`.
    """

    machines: Machines
    name: str
    adapter: str | None = None

    @cached_property
    def ref(self) -> ProbeRef:
        """What the machines need to know."""
        self.advance(self.work_together)  # each computes the reference, before its first task
        return ProbeRef(secrets.token_hex(8), ModelRef.of(self.name, self.opened(), self.adapter), list(self.canvases))

    def together(self, widths: Widths) -> list[Reading]:
        """Readings of the model with these widths against the unquantized model."""
        parts = parts_of(self.canvases, len(self.machines.counts))
        found = dict(self.machines.results([partial(_together, self.ref, widths, part) for part in parts]))
        self.advance(self.work_together)
        return [reading for place in range(len(parts)) for reading in found[place]]

    def alone(self, options: Options) -> Iterator[tuple[str, Width, float]]:
        """For each layer and width, the KL of quantizing only this layer, nats per masked position."""
        every = [{name: options[name] for name in layers_of(options, block)} for block in (*dict(self.blocks), HEAD)]
        own, found = [one for one in every if one], dict[int, list[tuple[str, Width, float]]]()
        for place, rows in self.machines.results([partial(_alone, self.ref, one) for one in own]):
            found[place] = rows
            self.advance(self.work_alone(own[place]) - self.work_alone({}))
        self.advance(self.work_alone({}))
        for place in range(len(own)):
            yield from found[place]


def _together(ref: ProbeRef, widths: Widths, part: slice) -> list[Reading]:
    """The readings on some of the batches of canvases, on a worker."""
    return ref.probe().readings(widths, part)


def _alone(ref: ProbeRef, options: Options) -> list[tuple[str, Width, float]]:
    """The KLs of the layers of one block, on a worker."""
    return list(ref.probe().alone(options))


def _opened(folder: Path, dtype: str | None, adapter: Adapter | None) -> DiffusionModel:
    model, _ = build(folder)
    if adapter:
        adapter.add_to(model)
    if dtype:
        model.set_dtype(DTYPES[dtype])
    return model
