"""The fast denoising loop, the main path of the package.

Each step forwards a part of the canvas, chooses a token for every masked position that may be committed, and lets
the commit rule commit some of them. `batch.py` takes the steps; `reference.py` is the plain decoder that they are
tested against.

Source: `diffusion_generate` (Dream, arXiv 2508.15487; DiffuCoder, arXiv 2506.20639).
"""

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx

from ..config import GenerationConfig
from ..models.transformer import DiffusionModel
from .batch import Batch
from .canvas import Canvas, copies
from .result import Step
from .rules.base import CommitRule
from .windows.base import Window


def denoise(
    model: DiffusionModel,
    canvases: Sequence[Canvas],
    rule: CommitRule,
    window: Window,
    config: GenerationConfig,
    *,
    forbidden: mx.array | None = None,
    stop: Callable[[Step], bool] | None = None,
) -> Iterator[tuple[Step, ...]]:
    """Denoise canvases together, one step at a time. Each becomes what it would alone.

    While the caller handles a step, the next forward is already running. A canvas that is finished is forwarded no more.

    Args:
        model: the network.
        canvases: every mask on them is filled, wherever it is. Of equal ones each draws its own random numbers, and the first
            of them the numbers that it would draw alone.
        rule, window, config, forbidden, stop: as in `Batch.add`.

    Yields:
        For each step, one `Step` for each canvas: its own last one, unchanged, for a canvas that is finished.

    Raises:
        CheckpointError: the network's output is not finite.
    """
    batch, ids = Batch(model), list[int]()
    for one, copy in zip(canvases, copies(canvases), strict=True):
        ids.append(batch.add(one, rule, window, config, forbidden=forbidden, stop=stop, copy=copy))
    steps: dict[int, Step] = {}
    while batch:
        steps = {id: step.unchanged() for id, step in steps.items()} | batch.step()
        yield tuple(steps[id] for id in ids)
