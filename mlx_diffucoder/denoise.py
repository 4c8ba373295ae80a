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

from .canvas import Canvas
from .config import GenerationConfig
from .errors import CheckpointError
from .model import Dream
from .policies import Candidates, Policy
from .sampling import SCORES, draw
from .sights import View
from .trace import Step
from .windows import Window


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
    model: Dream,
    canvas: Canvas,
    policy: Policy,
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
        tokens hook that masks again what was committed does not keep it going for ever.

    Raises:
        CheckpointError: the network's output is not finite.
    """
    seed = secrets.randbits(64) if config.seed is None else config.seed
    key, rng = mx.random.key(seed), np.random.default_rng(seed)
    hooks = hooks or Hooks()
    sight, judge = window.open(model, canvas), policy.open()
    tokens = mx.array(canvas.tokens)  # [B, L]
    if hooks.tokens:
        tokens = hooks.tokens(None, tokens, None)
    known = np.array(tokens)
    masked = (known == canvas.mask_id).sum(axis=1)  # [B]
    nfe = forwarded = 0
    if not config.reference and not masked.any():  # a hook has left nothing to do
        nothing = np.zeros_like(known, dtype=np.bool_)
        yield _steps(canvas, 0, known, known, nothing, nothing.astype(np.float32), nfe, forwarded)
    # Each step commits a token, so this ends before the range does, unless a hook masks some again.
    for index in range((policy.steps or 0) + (0 if config.reference else int(masked.sum()))):
        quota = judge.quota(index, masked, rng)
        if not config.reference and not quota.any():
            continue
        key, draw_key, score_key, order_key = mx.random.split(key, 4)

        view = sight.look(tokens, known, every=bool(hooks))
        logits, every = _hooked(view, hooks, index, tokens)  # [B, R, V]
        if forbidden is not None and not config.reference:
            logits = mx.where(forbidden, -mx.inf, logits)
        chosen, probs = draw(logits, config, draw_key)  # [B, R], [B, R, V]
        candidates = _candidates(view, chosen, probs, SCORES[config.alg](probs, chosen, score_key), known.shape[1])
        commit = judge.commit(candidates, quota, order_key)  # [B, R]
        at = mx.array(view.positions)
        before = mx.take_along_axis(tokens, at, axis=1)
        tokens = mx.put_along_axis(tokens, at, mx.where(commit, chosen.astype(tokens.dtype), before), axis=1)
        if hooks.tokens:
            tokens = hooks.tokens(index, tokens, every)

        nfe, forwarded = nfe + view.forwards, forwarded + view.forwarded
        # The step's one wait for the device.
        mx.eval(tokens, commit, candidates.scores, candidates.confidence)
        _check_numbers(np.array(candidates.confidence))
        known = np.array(tokens)
        masked = (known == canvas.mask_id).sum(axis=1)
        done = not config.reference and (not masked.any() or canvas.finished(known))
        shown = canvas.padded_out(known) if done else known
        yield _steps(canvas, index, shown, view.positions, np.array(commit), np.array(candidates.scores), nfe, forwarded)
        if done:
            return


def _check_numbers(confidence: NDArray[np.float32]) -> None:
    if np.isnan(confidence).any():
        raise CheckpointError(
            "the model's output is not a number: its weights are damaged, or their range is too"
            " wide for float16 (convert with --dtype bfloat16)"
        )


def _steps(
    canvas: Canvas,
    index: int,
    tokens: NDArray[np.int32],
    positions: NDArray[np.int32],
    commit: NDArray[np.bool_],
    scores: NDArray[np.float32],
    nfe: int,
    forwarded: int,
) -> tuple[Step, ...]:
    rows = zip(tokens, canvas.padding, positions, commit, scores, strict=True)
    return tuple(Step(index, row[pad:], at[took] - pad, score[took], nfe, forwarded) for row, pad, at, took, score in rows)


def _hooked(view: View, hooks: Hooks, index: int, tokens: mx.array) -> tuple[mx.array, mx.array | None]:
    """The candidates' logits and, where there is a hook, those of every position, after it."""
    if view.every is None or hooks.logits is None:
        return view.logits, view.every
    every = hooks.logits(index, tokens, view.every)
    return mx.take_along_axis(every, mx.array(view.positions)[..., None], axis=1), every


def _candidates(view: View, chosen: mx.array, probs: mx.array, scores: mx.array, length: int) -> Candidates:
    valid = mx.array(view.valid)
    return Candidates(
        scores=mx.where(valid, scores, -mx.inf),
        confidence=mx.take_along_axis(probs, chosen[..., None], axis=-1)[..., 0],
        entropy=-(probs * mx.log(probs + 1e-10)).sum(axis=-1),
        valid=valid,
        probs=probs,
        positions=view.positions,
        length=length,
    )
