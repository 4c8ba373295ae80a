"""The denoising loop. There is one.

Each step forwards the canvas, reads the distribution of every masked position one row to its
left, chooses a token and a score there, and lets the policy commit some of them.

Source: `diffusion_generate` (Dream, arXiv 2508.15487; DiffuCoder, arXiv 2506.20639).
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..config import GenerationConfig
from ..models.transformer import DiffusionModel
from .canvas import Canvas
from .result import Step
from .rules.base import CommitRule
from .step import Decider, StepResult
from .windows.base import ForwardOutput, Window


class LogitsHook(Protocol):
    """Called after each forward, with the logits shifted so that row i is position i's."""

    def __call__(self, index: int, tokens: mx.array, logits: mx.array) -> mx.array:
        """`tokens` `[B, L]`, `logits` `[B, L, V]`; returns the logits to go on with."""
        ...


class TokensHook(Protocol):
    """Called once before the first step (with None and None) and after each."""

    def __call__(self, index: int | None, tokens: mx.array, logits: mx.array | None) -> mx.array:
        """`tokens` `[B, L]`; returns the canvas to go on with."""
        ...


@dataclass(frozen=True)
class Hooks:
    """The reference's two hooks. With either, `lm_head` runs on every row of the canvas."""

    logits: LogitsHook | None = None
    tokens: TokensHook | None = None

    def __bool__(self) -> bool:
        return self.logits is not None or self.tokens is not None


def denoise(
    model: DiffusionModel,
    canvas: Canvas,
    policy: CommitRule,
    window: Window,
    config: GenerationConfig,
    *,
    forbidden: mx.array | None = None,
    hooks: Hooks | None = None,
) -> Iterator[tuple[Step, ...]]:
    """Denoise a batch of canvases, a step at a time.

    Args:
        model: the network.
        canvas: what to denoise; every mask on it is filled, wherever it stands.
        policy: which positions are committed when.
        window: which positions are forwarded.
        config: how tokens are drawn and scored.
        forbidden: bool `[V]`, ids never to be chosen; not applied with `config.reference`.
        hooks: called around each step.

    Yields:
        For each step, one `Step` for each row of the batch, its left padding taken off. It ends
        when no mask is left, or when no text can change any more: then the last step's canvas has
        padding behind the end tokens. With `config.reference` it ends after all of the steps. A
        tokens hook that masks again what was committed does not keep it going for ever. While the
        caller looks at a step, the next forward runs already.

    Raises:
        CheckpointError: the network's output is not finite.
    """
    seed = secrets.randbits(64) if config.seed is None else config.seed
    key, rng = mx.random.key(seed), np.random.default_rng(seed)
    hooks = hooks or Hooks()
    sight, judge = window.open(model, canvas), policy.open()
    decider = Decider(model, config, canvas.mask_id, forbidden, policy.compares)
    tokens = mx.array(canvas.tokens)  # [B, L]
    if hooks.tokens:
        tokens = hooks.tokens(None, tokens, None)
    known = np.array(tokens)
    to_fill = known == canvas.mask_id
    masked = to_fill.sum(axis=1)  # [B]
    nfe = forwarded = 0
    if not config.reference and not masked.any():  # a hook has left nothing to do
        yield tuple(Step.nothing(row[pad:]) for row, pad in zip(known, canvas.padding, strict=True))

    def look() -> ForwardOutput:
        return sight.look(tokens, known, judge.again(to_fill & (known != canvas.mask_id)), every=bool(hooks))

    view: ForwardOutput | None = None
    # Each step commits a token, so this ends before the range does, unless a hook masks some again.
    for index in range((policy.steps or 0) + (0 if config.reference else int(masked.sum()) * policy.rounds)):
        quota = judge.quota(index, masked, rng)
        if not config.reference and not quota.any():
            continue
        key, step_key = mx.random.split(key)
        view = view or look()
        logits, every = _hooked(view, hooks, index, tokens)
        # The step's one wait for the device.
        decision, judge = decider.decide(view, tokens, judge, quota, step_key, logits)
        tokens = hooks.tokens(index, decision.tokens, every) if hooks.tokens else decision.tokens
        sight.guess(view.positions, decision.chosen, decision.scores)

        nfe, forwarded = nfe + view.forwards, forwarded + view.forwarded
        known = np.array(tokens)
        masked = (known == canvas.mask_id).sum(axis=1)
        done = not config.reference and (not masked.any() or (window.stops and canvas.finished(known)))
        shown = canvas.padded_out(known) if done else known
        steps = _steps(canvas, index, shown, view, decision, nfe, forwarded)
        view = None
        if not done and not hooks and not config.reference:
            view = look()
            mx.async_eval(view.hidden)
        yield steps
        if done:
            return


def _steps(
    canvas: Canvas, index: int, tokens: NDArray[np.int32], view: ForwardOutput, decision: StepResult, nfe: int, forwarded: int
) -> tuple[Step, ...]:
    pads = canvas.padding
    whole = np.array([(pad, tokens.shape[1]) for pad in pads], dtype=np.int32)
    windows = (whole if view.window is None else view.window) - pads[:, None]
    rows = zip(tokens, pads, view.positions, decision.commit, decision.back, decision.scores, windows.tolist(), strict=True)
    return tuple(
        Step(index, row[pad:], at[took] - pad, score[took], at[back] - pad, nfe, forwarded, (max(0, first), end))
        for row, pad, at, took, back, score, (first, end) in rows
    )


def _hooked(view: ForwardOutput, hooks: Hooks, index: int, tokens: mx.array) -> tuple[mx.array | None, mx.array | None]:
    """Where there is a hook, the candidates' logits and those of every position, after it."""
    if view.every is None:
        return None, None
    every = hooks.logits(index, tokens, view.every) if hooks.logits else view.every
    return mx.take_along_axis(every, mx.array(view.positions)[..., None], axis=1), every
