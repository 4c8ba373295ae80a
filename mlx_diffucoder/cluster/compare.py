"""`diffucode compare` over several machines: each computes all checkpoints on some of the canvases, and answers some tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from ..config import GenerationConfig
from ..divergence.kl import Reading
from ..divergence.masking import Masked, batches
from ..evaluation import Result
from ..evaluation.compare import Advance, Checkpoint, Comparison, readings_of
from ..tasks import Task
from .evaluation import results_of
from .machines import Machines
from .models import ModelRef, folder_of, kept

PARTS = 3
"""Parts of the canvases for each machine. For each part it reads all weights, and a slow machine does fewer parts."""


def spread_compare(
    machines: Machines,
    base: Checkpoint,
    others: Sequence[Checkpoint],
    canvases: Sequence[Masked],
    *,
    by_layer: bool | None,
    advance: Advance,
) -> Iterator[Comparison]:
    """As `compare`, with the same numbers."""
    refs = [_ref(one) for one in (base, *others)]
    whole = list(batches(canvases))
    slices = parts_of(canvases, PARTS * len(machines.counts))
    parts = [[canvas for batch in whole[part] for canvas in batch] for part in slices]
    found: dict[int, list[list[Reading]]] = {}
    for place, readings in machines.results([partial(_readings, refs, by_layer, part) for part in parts]):
        found[place] = readings
        advance(len(parts[place]) * len(refs))
    for number in range(len(others)):
        yield Comparison.of([one for place in range(len(parts)) for one in found[place][number]])


def spread_answers(
    machines: Machines, tasks: Sequence[Task], config: GenerationConfig, limits: Mapping[str, Any]
) -> Callable[[Checkpoint], Iterator[Result]]:
    """The answers of a checkpoint to tasks, in any order.

    Args:
        limits: from `limits_there`.
    """
    return lambda one: results_of(machines, _ref(one), config, limits, [(task, 0) for task in tasks])


def parts_of(canvases: Sequence[Masked], count: int) -> list[slice]:
    """So many parts at most of the batches of some canvases. A batch stays whole, so that nothing is rounded otherwise."""
    size = len(list(batches(canvases)))
    bounds = sorted({round(part * size / count) for part in range(count + 1)})
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _ref(checkpoint: Checkpoint) -> ModelRef:
    return ModelRef.of(checkpoint.name, checkpoint.open())


def _readings(refs: Sequence[ModelRef], by_layer: bool | None, canvases: Sequence[Masked]) -> list[list[Reading]]:
    """The readings of all checkpoints but the first on some canvases, on a worker."""
    base, *others = kept(tuple(refs), lambda: [Checkpoint.of(ref.name, folder_of(ref), ref.dtype) for ref in refs])
    return list(readings_of(base, others, canvases, by_layer=by_layer))
