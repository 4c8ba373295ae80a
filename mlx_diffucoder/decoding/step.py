"""One step after a forward: choose tokens, let the commit rule decide, update the canvas."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..config import GenerationConfig
from ..errors import CheckpointError
from ..models.transformer import DiffusionModel
from .rules.base import Candidates, RuleState
from .sampling import Measurements, measure
from .windows.base import ForwardOutput, StepResult

ROWS = 64
"""Rows whose logits are in memory at once: those of a whole 7B canvas would take gigabytes."""


@dataclass(frozen=True, eq=False)
class StepInput:
    """One canvas at a step, after its forward.

    Attributes:
        output: the candidates and their hidden states.
        tokens: the canvas, int32 `[L]`.
        state: of the commit rule; it is not changed.
        quota: int64 `[1]`, as `RuleState.quota` gave it.
        key: for the draws.
        config: how tokens are drawn and scored.
        forbidden: bool `[V]`, ids never to be chosen; None forbids none.
        needs_best: as in `sampling.measure`.
    """

    output: ForwardOutput
    tokens: NDArray[np.int32]
    state: RuleState
    quota: NDArray[np.int64]
    key: mx.array
    config: GenerationConfig
    forbidden: mx.array | None = None
    needs_best: bool = False


def take_steps(model: DiffusionModel, inputs: Sequence[StepInput]) -> list[tuple[StepResult, RuleState]]:
    """Commit tokens, on each canvas as if it were alone. This is where the host waits for the device.

    top-p is first applied to a part of the vocabulary. Where that part turns out to be too small, the step is
    computed again with the whole vocabulary sorted.

    Args:
        model: turns hidden states into logits.
        inputs: the canvases.

    Returns:
        For each the result, and the commit rule's state after the step.

    Raises:
        CheckpointError: the network's output is not finite.
    """
    done: dict[int, tuple[StepResult, RuleState]] = {}
    for sort in (False, True):
        left = [index for index in range(len(inputs)) if index not in done]
        measured = _measure(model, [inputs[index] for index in left], sort)
        made = [_decide(inputs[index], one) for index, one in zip(left, measured, strict=True)]
        mx.eval(measured, [commit for commit, _ in made])
        for index, one, (commit, state) in zip(left, measured, made, strict=True):
            if sort or _is_complete(inputs[index].output, np.array(one.complete[0])):
                check_finite(one.confidence)
                done[index] = _result(inputs[index], one, np.array(commit[0])), state
    return [done[index] for index in range(len(inputs))]


def _decide(given: StepInput, measured: Measurements) -> tuple[mx.array, RuleState]:
    """What is committed, bool `[1, R]`, and the rule's state after that."""
    output, state = given.output, copy(given.state)
    own = Measurements._make(None if one is None else one[:, : len(output.positions)] for one in measured)
    candidates = candidates_from(own, output.positions[None], output.masked[None], len(given.tokens))
    candidates = _made_certain(candidates, output.certain)
    if output.forced is not None:
        candidates = replace(candidates, forced=from_numpy(output.forced[None]))
    return state.commit(candidates, given.quota, mx.random.split(given.key)[1]), state


class _Piece(NamedTuple):
    """Some candidates of one canvas, whose tokens are drawn with one key."""

    of: int
    hidden: mx.array
    key: mx.array


def _pieces(index: int, given: StepInput) -> Iterator[_Piece]:
    """The candidates of one canvas, `ROWS` at most in each piece: so a draw does not depend on other canvases."""
    hidden, key = given.output.hidden, mx.random.split(given.key)[0]
    for start in range(0, hidden.shape[1], ROWS):
        key, part_key = mx.random.split(key)
        yield _Piece(index, hidden[:, start : start + ROWS], part_key)


def _measure(model: DiffusionModel, inputs: Sequence[StepInput], sort: bool) -> list[Measurements]:
    """Measure every candidate of every canvas, the logits of `ROWS` candidates at a time."""
    pieces = [piece for index, given in enumerate(inputs) for piece in _pieces(index, given)]
    parts: list[list[Measurements]] = [[] for _ in inputs]
    while pieces:
        sizes = accumulate(piece.hidden.shape[1] for piece in pieces)
        count = max(1, sum(size <= ROWS for size in sizes))
        now, pieces = pieces[:count], pieces[count:]
        ends = list(accumulate(piece.hidden.shape[1] for piece in now))[:-1]
        every = mx.split(model.logits(mx.concatenate([piece.hidden for piece in now], axis=1)), ends, axis=1)
        for piece, logits in zip(now, every, strict=True):
            given = inputs[piece.of]
            if given.forbidden is not None:
                logits = mx.where(given.forbidden, -mx.inf, logits)
            parts[piece.of].append(measure(logits, given.config, piece.key, sort=sort, needs_best=given.needs_best))
        if pieces:
            # MLX allocates when work is queued: without waiting, all logits would be in memory at once.
            del every, logits
            mx.eval([parts[piece.of][-1] for piece in now])
    return [_joined(one) for one in parts]


def _joined(parts: list[Measurements]) -> Measurements:
    if len(parts) == 1:
        return parts[0]
    return Measurements._make(None if one[0] is None else mx.concatenate(list(one), axis=1) for one in zip(*parts, strict=True))


def candidates_from(
    measured: Measurements,
    positions: NDArray[np.int32],
    masked: NDArray[np.bool_],
    length: int,
) -> Candidates:
    """The candidates for a commit rule; the arguments are as in `Candidates`, masks on the host."""
    is_masked = from_numpy(masked)
    return Candidates(
        scores=mx.where(is_masked, measured.scores, -mx.inf),
        confidence=measured.confidence,
        entropy=measured.entropy,
        masked=is_masked,
        positions=positions,
        length=length,
    )


def _made_certain(candidates: Candidates, certain: NDArray[np.bool_] | None) -> Candidates:
    """The candidates, some of them as if the model were sure of them."""
    if certain is None:
        return candidates
    at = from_numpy(certain[None])
    return replace(
        candidates,
        scores=mx.where(at, mx.inf, candidates.scores),
        confidence=mx.where(at, 1.0, candidates.confidence),
        entropy=mx.where(at, 0.0, candidates.entropy),
    )


def _is_complete(output: ForwardOutput, complete: NDArray[np.bool_]) -> bool:
    """Whether all rows whose measurements are used, of those `[R + G]` of `complete`, are so."""
    count = len(output.masked)
    return bool(complete[count:].all() and complete[:count][output.masked].all())


def _result(given: StepInput, measured: Measurements, commit: NDArray[np.bool_]) -> StepResult:
    output, count, tokens = given.output, len(given.output.positions), given.tokens.copy()
    chosen, scores = np.array(measured.chosen[0]), np.array(measured.scores[0])
    tokens[output.positions[commit]] = chosen[:count][commit]
    return StepResult(
        chosen=chosen[:count],
        scores=np.where(output.masked, scores[:count], np.float32(-np.inf)),
        commit=commit,
        tokens=tokens,
        guessed=chosen[count:],
        guessed_scores=scores[count:],
        best=None if measured.best is None else np.array(measured.best[0])[:count],
        best_probs=None if measured.best_probs is None else np.array(measured.best_probs[0])[:count],
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
