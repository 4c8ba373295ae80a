"""The plain reference decoder: `diffusion_generate` (Dream, arXiv 2508.15487; DiffuCoder, arXiv 2506.20639).

It forwards the whole canvas in every step of the schedule, keeps no K/V cache, and never stops early. It runs
`reference=True` and hooks, and the fast loop (`loop.py`) is tested against it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..config import GenerationConfig
from ..errors import ConfigError
from ..models.transformer import DiffusionModel, left_padded
from .canvas import Canvas, predictor_of
from .result import Step
from .rules import rule_for
from .rules.base import Candidates, CommitRule
from .rules.schedule import Schedule
from .sampling import measure, random_sources
from .step import candidates_from, check_finite
from .torch_topk import torch_topk


@dataclass(frozen=True)
class Hooks:
    """The reference decoder's two hooks. Each takes the step's index, the canvas `[B, L]` and the logits `[B, L, V]`.

    Attributes:
        logits: called after each forward, with the logits shifted so that row i predicts position i; it returns
            the logits to use instead.
        tokens: called once before the first step (with None for the index and the logits), and after each step; it
            returns the canvas to use instead.
    """

    logits: Callable[[int, mx.array, mx.array], mx.array] | None = None
    tokens: Callable[[int | None, mx.array, mx.array | None], mx.array] | None = None

    def __bool__(self) -> bool:
        return self.logits is not None or self.tokens is not None

    def check(self, model: DiffusionModel, config: GenerationConfig, *, resizes: bool) -> None:
        """Raise `ConfigError` unless each step forwards the whole canvas, and its length stays (not `resizes`)."""
        reason = "changes its length" if resizes else "is decoded block after block" if model.config.block_length else ""
        if reason:
            raise ConfigError(f"hooks see the whole canvas, which {reason} with {model.family.name} models", field="hooks")
        if config.window != "whole":
            raise ConfigError("window must be 'whole' for hooks: they see the whole canvas", field="window")


def reference_decode(
    model: DiffusionModel,
    canvases: Sequence[Canvas],
    rule: CommitRule,
    config: GenerationConfig,
    *,
    forbidden: mx.array | None = None,
    hooks: Hooks | None = None,
) -> Iterator[tuple[Step, ...]]:
    """Denoise canvases in one batch, one step at a time. In it they have padding at their left, as in the reference.

    Args:
        canvases: B canvases; the longest has L positions.
        rule: decides which tokens are committed. A schedule runs all its steps, other rules until no mask is left.
        config: how tokens are drawn and scored.
        forbidden: bool `[V]`, ids never to be chosen.
        hooks: called around each step.

    Yields one `Step` for each canvas in each step. Raises `CheckpointError` if the network's output is not finite.
    """
    hooks = hooks or Hooks()
    key, rng = random_sources(config.seed)
    state, mask_id, (tokens, padding) = rule.open(), canvases[0].mask_id, _side_by_side(canvases)
    known, length = sum(int((one.tokens != mask_id).sum()) for one in canvases), tokens.shape[1]
    at = np.tile(np.arange(length, dtype=np.int32), (len(canvases), 1))  # [B, L]
    forward = _forward_of(model, at, padding)
    if hooks.tokens:
        tokens = hooks.tokens(None, tokens, None)
    to_fill = np.array(tokens) == mask_id

    # A hook that masks positions again does not keep a rule without a schedule running for ever.
    for index in range(rule.steps or max(1, int(to_fill.sum()))):
        masked = np.array(tokens) == mask_id
        quota = state.quota(index, masked.sum(axis=1), rng)
        logits = forward(tokens)  # [B, L, V]
        if hooks.logits:
            logits = hooks.logits(index, tokens, logits)
        allowed = logits if forbidden is None else mx.where(forbidden, -mx.inf, logits)

        key, measure_key, commit_key = mx.random.split(key, 3)
        measured = measure(allowed, config, measure_key)
        check_finite(measured.confidence)
        candidates = candidates_from(measured, at, masked, length)
        commit = state.commit(candidates, quota, commit_key)  # [B, L]
        tokens = mx.where(commit, measured.chosen, tokens).astype(tokens.dtype)
        if hooks.tokens:
            tokens = hooks.tokens(index, tokens, logits)
        yield _steps(index, known, padding, tokens, commit, measured.scores)
        if rule.steps is None and not (np.array(tokens) == mask_id).any():
            return


def _side_by_side(canvases: Sequence[Canvas]) -> tuple[mx.array, NDArray[np.int32]]:
    """Canvases with padding at their left, int32 `[B, L]`, and how much of it each has, int32 `[B]`."""
    longest = max(len(one.tokens) for one in canvases)
    padding = np.array([longest - len(one.tokens) for one in canvases], dtype=np.int32)
    each = zip(canvases, padding, strict=True)
    return from_numpy(np.stack([np.pad(one.tokens, (pad, 0), constant_values=one.pad_id) for one, pad in each])), padding


def _forward_of(model: DiffusionModel, at: NDArray[np.int32], padding: NDArray[np.int32]) -> Callable[[mx.array], mx.array]:
    """The forward of whole canvases: tokens `[B, L]` to logits `[B, L, V]`, shifted so that row i predicts position i.

    Args:
        at: the positions in the batch, `[B, L]`.
        padding: the tokens of padding at the left of each canvas, `[B]`.
    """
    predictors = from_numpy(np.maximum(predictor_of(at, model.shift), padding[:, None]))
    positions, mask = left_padded(from_numpy(padding), at.shape[1]) if padding.any() else (0, None)
    return lambda tokens: model(tokens, rows=predictors, positions=positions, mask=mask)


def _steps(
    index: int, known: int, padding: NDArray[np.int32], tokens: mx.array, commit: mx.array, scores: mx.array
) -> tuple[Step, ...]:
    """The step of each canvas without its left padding, from arrays `[B, L]`; `known` tokens are not counted at first."""
    arrays, length = (np.array(one) for one in (tokens, commit, scores)), tokens.shape[1]
    return tuple(
        Step(
            index=index,
            tokens=row[pad:],
            committed=np.flatnonzero(committed[pad:]).astype(np.int32),
            scores=all_scores[committed],
            nfe=index + 1,
            positions=(index + 1) * length,
            window=(0, length - int(pad)),
            rows=(tokens.size - known, *[tokens.size] * index),
        )
        for row, committed, all_scores, pad in zip(*arrays, padding, strict=True)
    )


@dataclass(frozen=True)
class ReferenceSchedule(Schedule):
    """`Schedule` to the letter: equal scores are taken in torch's order, and the last step is like the others.

    In the last step too every row commits the mean, so a row with more masks than the mean keeps some.
    """

    def quota(self, index: int, masked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return self.share_of_mean(index, masked)

    def commit(self, candidates: Candidates, quota: NDArray[np.int64], key: mx.array) -> mx.array:
        """As `Schedule.commit`. The candidates must be the whole canvas, because torch's order depends on its length."""
        if self.alg_temp > 0:  # drawn at random: no ties
            return super().commit(candidates, quota, key)
        commit = np.zeros(candidates.scores.shape, dtype=np.bool_)
        for row, scores, count in zip(commit, np.array(candidates.scores), quota, strict=True):
            row[torch_topk(scores.tolist(), int(count))] = True
        return from_numpy(commit) & candidates.masked


def reference_rule(config: GenerationConfig) -> CommitRule:
    """The commit rule of a run that the reference decoder decodes: torch's tie order with `config.reference`."""
    rule = rule_for(config)
    if config.reference and type(rule) is Schedule:  # not `RandomSchedule`
        return ReferenceSchedule(rule.steps, rule.eps, rule.alg_temp)
    return rule
