"""The plain reference decoder of block-causal models: `generate_block` of Stable-DiffCoder, without its cache.

Each step forwards everything up to the end of the current block. That gives the same logits as the published code, which
keeps the keys and values of finished blocks, because no token sees a later block. SDAR's published loop is the same but for
a fault: in a block with fewer masks than a step's share, such as one that begins with the end of the prompt, it writes over
known tokens. So SDAR decodes as Stable-DiffCoder here.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..choices import block_length_of
from ..config import GenerationConfig
from ..models.transformer import DiffusionModel
from .canvas import Canvas
from .result import Step
from .rules.block_schedule import BlockSchedule, block_shares
from .sampling import draw, random_sources
from .step import check_finite


def block_reference_decode(
    model: DiffusionModel, canvases: Sequence[Canvas], config: GenerationConfig
) -> Iterator[tuple[Step, ...]]:
    """Denoise canvases, each by itself: one that has ended repeats its last step.

    Args:
        canvases: each has one hole, at its end.
        config: with the rule schedule or threshold, on the window block-causal. With a threshold, each step commits the most
            probable token and those that reach it; masks that are left after a block's last step stay.

    Yields one `Step` for each canvas after each denoising forward. Raises `CheckpointError` if the network's output is not
    finite.
    """
    rule = BlockSchedule.of(config)
    rows = [_decode(model, canvas, rule, config) for canvas in canvases]
    last = [Step.empty(canvas.tokens) for canvas in canvases]
    for steps in zip_longest(*rows):
        last = [now or before for now, before in zip(steps, last, strict=True)]
        yield tuple(last)


def _decode(model: DiffusionModel, canvas: Canvas, rule: BlockSchedule, config: GenerationConfig) -> Iterator[Step]:
    """The steps of one canvas."""
    length, prompt, text = block_length_of(config.window), canvas.start, canvas.tokens
    tokens, (key, _), positions = text.copy(), random_sources(config.seed), 0
    rows: tuple[int, ...] = ()
    for start in range(prompt // length * length, len(tokens), length):
        end = min(start + length, len(tokens))
        block = tokens[start:end]  # a view: commits go to the canvas
        for share in filter(None, block_shares(int((block == canvas.mask_id).sum()), rule.block_steps)):
            key, step_key = mx.random.split(key)
            logits = model(from_numpy(tokens[None, :end]), rows=mx.arange(start, end)[None], block_length=length)
            chosen, probs = _measure(logits[0], config, step_key)
            masked = np.flatnonzero(block == canvas.mask_id)
            order = masked[np.argsort(-probs[masked], kind="stable")]
            count = share if rule.tau is None else max(1, int((probs[masked] >= rule.tau).sum()))
            commit = np.sort(order[:count]).astype(np.int32)
            block[commit] = chosen[commit]
            positions += end
            rows += (end if rows else end - int((text[:end] != canvas.mask_id).sum()),)
            scores = probs[commit].astype(np.float32)
            yield Step(len(rows) - 1, tokens.copy(), commit + start, scores, len(rows), positions, (0, end), rows)
            if not (block == canvas.mask_id).any():
                break
        if not (block == canvas.mask_id).any() and np.isin(tokens[max(start, prompt) : end], list(canvas.end_ids)).any():
            return


def _measure(logits: mx.array, config: GenerationConfig, key: mx.array) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The token chosen at each row of `logits` `[n, V]`, and its probability in float64 at temperature 1."""
    chosen, _, _ = draw(logits, config, key)
    wide = np.array(logits.astype(mx.float32)).astype(np.float64)
    wide = np.exp(wide - wide.max(axis=-1, keepdims=True))
    probs = wide[np.arange(len(wide)), np.array(chosen)] / wide.sum(axis=-1)
    check_finite(from_numpy(probs))
    return np.array(chosen).astype(np.int32), probs
