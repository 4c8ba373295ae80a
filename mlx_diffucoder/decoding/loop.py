"""The fast denoising loop, the main path of the package.

Each step forwards a part of the canvas, chooses a token for every masked position that may be committed, and lets
the commit rule commit some of them. `reference.py` is the plain decoder that this one is tested against.

Source: `diffusion_generate` (Dream, arXiv 2508.15487; DiffuCoder, arXiv 2506.20639).
"""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..config import GenerationConfig
from ..models.transformer import DiffusionModel
from .canvas import Canvas
from .result import NO_GUESSES, Step
from .rules.base import CommitRule
from .sampling import random_sources
from .step import Stepper
from .windows.base import ForwardOutput, StepResult, Window


def denoise(
    model: DiffusionModel,
    canvas: Canvas,
    rule: CommitRule,
    window: Window,
    config: GenerationConfig,
    *,
    forbidden: mx.array | None = None,
) -> Iterator[tuple[Step, ...]]:
    """Denoise a batch of canvases, one step at a time.

    While the caller handles a step, the next forward is already running.

    Args:
        model: the network.
        canvas: B canvases of L positions; every mask on them is filled, wherever it is.
        rule: decides which tokens are committed in a step.
        window: decides which positions are forwarded in a step.
        config: how tokens are drawn and scored.
        forbidden: bool `[V]`, ids never to be chosen.

    Yields:
        For each step, one `Step` for each canvas, without its left padding. The last step is the one after which
        no mask is left; or, for a window that `stops_at_end`, no text can change any more: its canvas
        then has padding after the end tokens.

    Raises:
        CheckpointError: the network's output is not finite.
    """
    key, rng = random_sources(config)
    window_state, rule_state = window.open(model, canvas), rule.open()
    stepper = Stepper(model, config, canvas.mask_id, forbidden, rule.needs_probs, window.guesses)
    tokens, on_host = mx.array(canvas.tokens), canvas.tokens  # [B, L], the same on device and host
    to_fill = on_host == canvas.mask_id
    masks = to_fill.sum(axis=1)  # [B]
    if not masks.any():
        yield tuple(Step.empty(row[pad:]) for row, pad in zip(on_host, canvas.padding, strict=True))

    def forward() -> ForwardOutput:
        committed = to_fill & (on_host != canvas.mask_id)
        return window_state.forward(tokens, on_host, rule_state.recheck(committed))

    nfe = positions = 0
    rows: tuple[int, ...] = ()
    known = to_fill.size - int(masks.sum() + canvas.padding.sum())
    output: ForwardOutput | None = None
    # Past its schedule a rule commits at least one token a step, so the loop ends before this range does.
    for index in range((rule.steps or 0) + int(masks.sum()) * rule.max_commits):
        # 1. How many tokens to commit. A step without commits costs no forward.
        quota = rule_state.quota(index, masks, rng)
        if not quota.any():
            continue

        # 2. Forward, unless the previous step has already queued it.
        output = output or forward()
        nfe, positions = nfe + output.forwards, positions + output.forwarded
        if output.forwards:
            rows += (output.forwarded * len(masks) - (0 if rows else known),)

        # 3. Choose tokens and commit. The host waits for the device here, and nowhere else.
        key, step_key = mx.random.split(key)
        result, rule_state = stepper.step(output, tokens, rule_state, quota, step_key)
        result = window_state.observe(output, result)
        tokens, on_host = result.tokens, np.array(result.tokens)
        masks = (on_host == canvas.mask_id).sum(axis=1)

        # 4. Stop, or queue the next forward before the caller gets this step.
        done = not masks.any() or (window.stops_at_end and canvas.finished(on_host))
        steps = _steps(index, canvas, canvas.padded_out(on_host) if done else on_host, output, result, nfe, positions, rows)
        if not done:
            output = forward()
            mx.async_eval(output.hidden)
        yield steps
        if done:
            return


def _steps(
    index: int,
    canvas: Canvas,
    tokens: NDArray[np.int32],
    output: ForwardOutput,
    result: StepResult,
    nfe: int,
    positions: int,
    rows: tuple[int, ...],
) -> tuple[Step, ...]:
    """The step of each canvas; positions are counted from the end of its left padding."""
    spans = np.maximum(output.span - canvas.padding[:, None], 0).tolist()
    rejected = result.rejected or [NO_GUESSES] * len(tokens)
    every = zip(
        *(tokens, canvas.padding, output.positions, result.commit, result.remask, result.scores, spans, rejected), strict=True
    )
    return tuple(
        Step(
            *(index, row[pad:], at[commit] - pad, score[commit], at[remask] - pad, nfe, positions, (first, end), rows),
            rejected=guesses - np.array([pad, 0], dtype=np.int32),
        )
        for row, pad, at, commit, remask, score, (first, end), guesses in every
    )
