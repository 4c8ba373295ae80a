"""One step's decision: from what a view shows to what is committed, and what is taken back."""

from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..config import GenerationConfig
from ..errors import CheckpointError
from ..models.transformer import DiffusionModel
from .rules.base import Candidates, RuleState
from .sampling import SCORES, draw, probability, score_entropy
from .windows.base import ForwardOutput

ROWS = 64
"""Rows whose logits are held at once: those of a whole 7B canvas would take gigabytes."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """What becomes of the candidates, on the host: `[B, R]` each.

    Attributes:
        chosen: int32, the tokens.
        scores: float32, as `Candidates` has them.
        commit: bool, where they were committed.
        back: bool, where a committed token was masked again.
        tokens: the canvas after it, int32 `[B, L]`, on the device.
    """

    chosen: NDArray[np.int32]
    scores: NDArray[np.float32]
    commit: NDArray[np.bool_]
    back: NDArray[np.bool_]
    tokens: mx.array


class Decider:
    """What the decisions of one run have in common.

    Args:
        model: gives the logits of what a view shows.
        config: how tokens are drawn and scored.
        mask_id: what stands where a token is taken back.
        forbidden: bool `[V]`, ids never to be chosen; not applied with `config.reference`.
        compares: as `CommitRule` has it.
    """

    def __init__(self, model: DiffusionModel, config: GenerationConfig, mask_id: int, forbidden: mx.array | None, compares: bool):
        self._model, self._config, self._mask_id, self._compares = model, config, mask_id, compares
        self._forbidden = None if config.reference else forbidden

    def decide(
        self,
        view: ForwardOutput,
        tokens: mx.array,
        judge: RuleState,
        quota: NDArray[np.int64],
        key: mx.array,
        logits: mx.array | None = None,
    ) -> tuple[StepResult, RuleState]:
        """Decide on the candidates of `view`; this is where the host waits for the device.

        A nucleus is cut out of a part of the vocabulary first. If that turns out not to have been
        enough, all is decided once more with the whole of it sorted.

        Args:
            tokens: the canvas `[B, L]`.
            judge: is left as it was; the one returned has seen this step.
            logits: `[B, R, V]` to use instead of the model's.

        Raises:
            CheckpointError: the network's output is not finite.
        """
        look_key, order_key = mx.random.split(key)
        partly = self._config.top_p < 1 and not self._config.reference
        for sort in (False, True) if partly else (True,):
            after = copy(judge)
            seen = self._look(view, tokens, look_key, logits, sort)
            candidates = _candidates(view, seen, tokens.shape[1])
            commit = after.commit(candidates, quota, order_key)  # [B, R]
            back = after.take_back(candidates)
            at = mx.array(view.positions)
            new = mx.take_along_axis(tokens, at, axis=1)
            new = mx.where(back, self._mask_id, mx.where(commit, seen.chosen, new)).astype(tokens.dtype)
            canvas = mx.put_along_axis(tokens, at, new, axis=1)
            mx.eval(canvas, *seen[:-1], candidates.scores, commit, back)
            if (np.array(seen.complete) | ~(view.valid | view.again)).all():
                break
        _check_numbers(np.array(seen.confidence))
        return StepResult(np.array(seen.chosen), np.array(candidates.scores), np.array(commit), np.array(back), canvas), after

    def _look(self, view: ForwardOutput, tokens: mx.array, key: mx.array, logits: mx.array | None, sort: bool) -> "_Measures":
        """The measures of every candidate, a part of the rows at a time."""
        standing = mx.take_along_axis(tokens, mx.array(view.positions), axis=1)
        rows = max(1, ROWS // len(view.positions))
        parts: list[_Measures] = []
        for start in range(0, standing.shape[1], rows):
            part = slice(start, start + rows)
            key, part_key = mx.random.split(key)
            given = self._model.logits(view.hidden[:, part]) if logits is None else logits[:, part]
            parts.append(self._measure(given, standing[:, part], part_key, sort))
            if rows < standing.shape[1]:
                # MLX takes memory when work is queued: without a wait, it would be that of all parts.
                del given
                mx.eval(*(one for one in parts[-1] if one is not None))
        joined = [None if one[0] is None else mx.concatenate(list(one), axis=1) for one in zip(*parts, strict=True)]
        return _Measures._make(joined)

    def _measure(self, logits: mx.array, standing: mx.array, key: mx.array, sort: bool) -> "_Measures":
        if self._forbidden is not None:
            logits = mx.where(self._forbidden, -mx.inf, logits)
        draw_key, score_key = mx.random.split(key)
        chosen, probs, complete = draw(logits, self._config, draw_key, sort=sort)
        sure = score_entropy(probs, chosen, score_key)
        alg = self._config.alg
        return _Measures(
            chosen=chosen,
            scores=sure if alg == "entropy" else SCORES[alg](probs, chosen, score_key),
            confidence=probability(probs, chosen),
            entropy=-sure,
            held=probability(probs, standing),
            complete=complete,
            probs=probs if self._compares else None,
        )


class _Measures(NamedTuple):
    """Of each candidate, `[B, R]`; `probs` `[B, R, V]`."""

    chosen: mx.array
    scores: mx.array
    confidence: mx.array
    entropy: mx.array
    held: mx.array
    complete: mx.array
    probs: mx.array | None


def _candidates(view: ForwardOutput, seen: _Measures, length: int) -> Candidates:
    valid = mx.array(view.valid)
    return Candidates(
        scores=mx.where(valid, seen.scores, -mx.inf),
        confidence=seen.confidence,
        entropy=seen.entropy,
        valid=valid,
        positions=view.positions,
        length=length,
        again=mx.array(view.again),
        held=seen.held,
        probs=seen.probs,
    )


def _check_numbers(confidence: NDArray[np.float32]) -> None:
    if np.isnan(confidence).any():
        raise CheckpointError(
            "the model's output is not a number: its weights are damaged, or their range is too"
            " wide for float16 (convert with --dtype bfloat16)"
        )
