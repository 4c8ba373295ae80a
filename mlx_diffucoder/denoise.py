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

from .canvas import Canvas, masked_first
from .config import GenerationConfig
from .errors import CheckpointError
from .model import Dream
from .policies import Candidates, Policy
from .sampling import SCORES, draw
from .trace import Step


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
        config: how tokens are drawn and scored.
        forbidden: bool `[V]`, ids never to be chosen; not applied with `config.reference`.
        hooks: called around each step.

    Yields:
        For each step, one `Step` for each row of the batch, its left padding taken off. It ends
        when no mask is left; with `config.reference`, after all of the policy's steps.

    Raises:
        CheckpointError: the network's output is not finite.
    """
    seed = secrets.randbits(64) if config.seed is None else config.seed
    key, rng = mx.random.key(seed), np.random.default_rng(seed)
    padding = mx.array(canvas.padding) if canvas.padding.any() else None
    hooks = hooks or Hooks()
    tokens = mx.array(canvas.tokens)  # [B, L]
    if hooks.tokens:
        tokens = hooks.tokens(None, tokens, None)
    known = np.array(tokens)
    nfe = 0
    for index in range(policy.steps):
        masked = known == canvas.mask_id
        if not config.reference and not masked.any():
            return
        quota = policy.quota(index, masked.sum(axis=1), rng)
        if not config.reference and not quota.any():
            continue
        key, draw_key, score_key, order_key = mx.random.split(key, 4)
        positions, valid = masked_first(masked)
        at = mx.array(positions)  # [B, R]

        logits, every_row = _logits(model, tokens, at, padding, index, hooks)
        if forbidden is not None and not config.reference:
            logits = mx.where(forbidden, -mx.inf, logits)  # [B, R, V]
        chosen, probs = draw(logits, config, draw_key)  # [B, R], [B, R, V]
        scores = mx.where(mx.array(valid), SCORES[config.alg](probs, chosen, score_key), -mx.inf)
        commit = policy.commit(Candidates(scores, positions, tokens.shape[1]), quota, order_key)  # [B, R]
        before = mx.take_along_axis(tokens, at, axis=1)
        tokens = mx.put_along_axis(tokens, at, mx.where(commit, chosen.astype(tokens.dtype), before), axis=1)
        if hooks.tokens:
            tokens = hooks.tokens(index, tokens, every_row)

        nfe += 1
        mx.eval(tokens, commit, scores)  # the step's one wait for the device
        if np.isnan(np.array(scores)).any():
            raise CheckpointError(
                "the model's output is not a number: its weights are damaged, or their range is too"
                " wide for float16 (convert with --dtype bfloat16)"
            )
        known = np.array(tokens)
        yield _steps(index, known, canvas.padding, positions, np.array(commit), np.array(scores), nfe)


def _logits(
    model: Dream, tokens: mx.array, at: mx.array, padding: mx.array | None, index: int, hooks: Hooks
) -> tuple[mx.array, mx.array | None]:
    """The logits of the positions `at` `[B, R, V]`, and those of every position where a hook wants them.

    The shift: position i is predicted by row i - 1, and position 0, as in the reference, by row 0.
    """
    left = mx.maximum(at - 1, 0)
    if not hooks:
        return model(tokens, rows=left, padding=padding), None
    logits = model(tokens, padding=padding)
    logits = mx.concatenate([logits[:, :1], logits[:, :-1]], axis=1)  # [B, L, V]
    if hooks.logits:
        logits = hooks.logits(index, tokens, logits)
    return mx.take_along_axis(logits, at[..., None], axis=1), logits


def _steps(
    index: int,
    tokens: NDArray[np.int32],
    padding: NDArray[np.int32],
    positions: NDArray[np.int32],
    commit: NDArray[np.bool_],
    scores: NDArray[np.float32],
    nfe: int,
) -> tuple[Step, ...]:
    return tuple(
        Step(index, row[pad:], at[took] - pad, score[took], nfe, nfe * len(row))
        for row, pad, at, took, score in zip(tokens, padding, positions, commit, scores, strict=True)
    )
