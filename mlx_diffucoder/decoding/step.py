"""One step after a forward: choose tokens, let the commit rule decide, update the canvas."""

from copy import copy
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..config import GenerationConfig
from ..errors import CheckpointError
from ..models.transformer import DiffusionModel
from .rules.base import Candidates, RuleState
from .sampling import Measurements, measure
from .windows.base import ForwardOutput

ROWS = 64
"""Rows whose logits are in memory at once: those of a whole 7B canvas would take gigabytes."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """The outcome of a step, on the host unless stated otherwise; `[B, R]` for the R candidates of `ForwardOutput`.

    Attributes:
        chosen: int32, the token chosen at each candidate.
        scores: float32, as in `Candidates`.
        commit: bool, where the chosen token was committed.
        remask: bool, where a committed token was masked again.
        tokens: the canvas after the step, int32 `[B, L]`, on the device.
    """

    chosen: NDArray[np.int32]
    scores: NDArray[np.float32]
    commit: NDArray[np.bool_]
    remask: NDArray[np.bool_]
    tokens: mx.array


class Stepper:
    """Runs the steps of one generation.

    Args:
        model: turns hidden states into logits.
        config: how tokens are drawn and scored.
        mask_id: the token that a remasked position gets.
        forbidden: bool `[V]`, ids never to be chosen; None forbids none.
        needs_probs: as in `CommitRule`.
    """

    def __init__(
        self, model: DiffusionModel, config: GenerationConfig, mask_id: int, forbidden: mx.array | None, needs_probs: bool
    ):
        self._model, self._config, self._mask_id = model, config, mask_id
        self._forbidden, self._needs_probs = forbidden, needs_probs

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
            candidates = candidates_from(measured, output.positions, output.masked, output.recheck, tokens.shape[1])
            commit = after.commit(candidates, quota, commit_key)  # [B, R]
            remask = after.remask(candidates)
            at = mx.array(output.positions)
            updated = mx.where(remask, self._mask_id, mx.where(commit, measured.chosen, mx.take_along_axis(tokens, at, axis=1)))
            canvas = mx.put_along_axis(tokens, at, updated.astype(tokens.dtype), axis=1)
            mx.eval(canvas, *measured[:-1], candidates.scores, commit, remask)
            if (np.array(measured.complete) | ~(output.masked | output.recheck)).all():
                break
        check_finite(measured.confidence)
        return (
            StepResult(np.array(measured.chosen), np.array(candidates.scores), np.array(commit), np.array(remask), canvas),
            after,
        )

    def _measure(self, output: ForwardOutput, tokens: mx.array, key: mx.array, sort: bool) -> Measurements:
        """Measure every candidate, `ROWS` rows at a time."""
        current = mx.take_along_axis(tokens, mx.array(output.positions), axis=1)
        rows = max(1, ROWS // len(output.positions))
        parts: list[Measurements] = []
        for start in range(0, current.shape[1], rows):
            part = slice(start, start + rows)
            key, part_key = mx.random.split(key)
            logits = self._model.logits(output.hidden[:, part])
            if self._forbidden is not None:
                logits = mx.where(self._forbidden, -mx.inf, logits)
            parts.append(measure(logits, current[:, part], self._config, part_key, needs_probs=self._needs_probs, sort=sort))
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
