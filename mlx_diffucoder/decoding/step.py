"""One step after a forward: choose tokens, let the commit rule decide, update the canvas."""

from copy import copy
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..config import GenerationConfig
from ..errors import CheckpointError
from ..models.transformer import DiffusionModel
from .rules.base import Candidates, RuleState
from .sampling import Measurements, measure
from .windows.base import ForwardOutput, StepResult

ROWS = 64
"""Rows whose logits are in memory at once: those of a whole 7B canvas would take gigabytes."""


class Stepper:
    """Runs the steps of one generation.

    Args:
        model: turns hidden states into logits.
        config: how tokens are drawn and scored.
        mask_id: the token that a remasked position gets.
        forbidden: bool `[V]`, ids never to be chosen; None forbids none.
        needs_probs: as in `CommitRule`.
        needs_best: as in `sampling.measure`.
    """

    def __init__(
        self,
        model: DiffusionModel,
        config: GenerationConfig,
        mask_id: int,
        forbidden: mx.array | None,
        needs_probs: bool,
        needs_best: bool = False,
    ):
        self._model, self._config, self._mask_id = model, config, mask_id
        self._forbidden = forbidden
        self._measured = partial(measure, config=config, needs_probs=needs_probs, needs_best=needs_best)

    def step(
        self, output: ForwardOutput, tokens: mx.array, state: RuleState, quota: NDArray[np.int64], key: mx.array
    ) -> tuple[StepResult, RuleState]:
        """Commit and remask. This is where the host waits for the device.

        top-p is first applied to a part of the vocabulary. Where that part turns out to be too small, the step is
        computed again with the whole vocabulary sorted.

        Args:
            output: the candidates and their hidden states.
            tokens: the canvas, int32 `[B, L]`.
            state: the commit rule's state; it is not changed.
            quota: int64 `[B]`, as `RuleState.quota` gave it.
            key: for the draws.

        Returns:
            The result, and the commit rule's state after the step.

        Raises:
            CheckpointError: the network's output is not finite.
        """
        measure_key, commit_key = mx.random.split(key)
        for sort in (False, True) if self._config.top_p < 1 else (True,):
            after = copy(state)
            measured = self._measure(output, tokens, measure_key, sort)
            own = Measurements._make(None if one is None else one[:, : output.positions.shape[1]] for one in measured)
            candidates = candidates_from(own, output.positions, output.masked, output.recheck, tokens.shape[1])
            candidates = _made_certain(candidates, output.certain)
            commit = after.commit(candidates, quota, commit_key)  # [B, R]
            remask = after.remask(candidates)
            at = mx.array(output.positions)
            updated = mx.where(remask, self._mask_id, mx.where(commit, own.chosen, mx.take_along_axis(tokens, at, axis=1)))
            canvas = mx.put_along_axis(tokens, at, updated.astype(tokens.dtype), axis=1)
            mx.eval(canvas, *(one for one in measured[:-1] if one is not None), commit, remask)
            if (np.array(measured.complete) | ~_read(output)).all():
                break
        check_finite(measured.confidence)
        return _result(output, measured, commit, remask, canvas), after

    def _measure(self, output: ForwardOutput, tokens: mx.array, key: mx.array, sort: bool) -> Measurements:
        """Measure every candidate, `ROWS` rows at a time."""
        current = mx.take_along_axis(tokens, mx.array(output.positions), axis=1)
        current = mx.pad(current, [(0, 0), (0, output.guesses)])
        rows = max(1, ROWS // len(output.positions))
        parts: list[Measurements] = []
        for start in range(0, current.shape[1], rows):
            part = slice(start, start + rows)
            key, part_key = mx.random.split(key)
            logits = self._model.logits(output.hidden[:, part])
            if self._forbidden is not None:
                logits = mx.where(self._forbidden, -mx.inf, logits)
            parts.append(self._measured(logits, current[:, part], key=part_key, sort=sort))
            if rows < current.shape[1]:
                # MLX allocates when work is queued: without waiting, all parts would be in memory at once.
                del logits
                mx.eval(*(value for value in parts[-1] if value is not None))
        joined = [None if one[0] is None else mx.concatenate(list(one), axis=1) for one in zip(*parts, strict=True)]
        return Measurements._make(joined)


def candidates_from(
    measured: Measurements,
    positions: NDArray[np.int32],
    masked: NDArray[np.bool_],
    recheck: NDArray[np.bool_],
    length: int,
) -> Candidates:
    """The candidates for a commit rule; the arguments are as in `Candidates`, masks on the host."""
    is_masked = mx.array(masked)
    return Candidates(
        scores=mx.where(is_masked, measured.scores, -mx.inf),
        confidence=measured.confidence,
        entropy=measured.entropy,
        masked=is_masked,
        positions=positions,
        length=length,
        recheck=mx.array(recheck),
        current=measured.current,
        probs=measured.probs,
    )


def _made_certain(candidates: Candidates, certain: NDArray[np.bool_] | None) -> Candidates:
    """The candidates, some of them as if the model were sure of them."""
    if certain is None:
        return candidates
    at = mx.array(certain)
    return replace(
        candidates,
        scores=mx.where(at, mx.inf, candidates.scores),
        confidence=mx.where(at, 1.0, candidates.confidence),
        entropy=mx.where(at, 0.0, candidates.entropy),
    )


def _read(output: ForwardOutput) -> NDArray[np.bool_]:
    """The rows whose measurements are used, bool `[B, R + G]`."""
    return np.pad(output.masked | output.recheck, [(0, 0), (0, output.guesses)], constant_values=True)


def _result(output: ForwardOutput, measured: Measurements, commit: mx.array, remask: mx.array, tokens: mx.array) -> StepResult:
    count = output.positions.shape[1]
    chosen, scores = np.array(measured.chosen), np.array(measured.scores)
    return StepResult(
        chosen=chosen[:, :count],
        scores=np.where(output.masked, scores[:, :count], np.float32(-np.inf)),
        commit=np.array(commit),
        remask=np.array(remask),
        tokens=tokens,
        guessed=chosen[:, count:],
        guessed_scores=scores[:, count:],
        best=None if measured.best is None else np.array(measured.best)[:, :count],
        best_probs=None if measured.best_probs is None else np.array(measured.best_probs)[:, :count],
    )


def check_finite(confidence: mx.array) -> None:
    """Check the probabilities of the chosen tokens.

    Raises:
        CheckpointError: one is not a number.
    """
    if np.isnan(np.array(confidence)).any():
        raise CheckpointError(
            "the model's output is not a number: its weights are damaged, or their range is too"
            " wide for float16 (compute with --dtype bfloat16)"
        )
