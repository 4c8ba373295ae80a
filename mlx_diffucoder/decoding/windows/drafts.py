"""The window that forwards the whole canvas and its probable successors in one batch."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, predictor_of
from .base import Forward, ForwardOutput, Part, StepResult, Window, WindowState, candidates_of, rows_of


@dataclass(frozen=True)
class Drafts(Window):
    """Forward the whole canvas, and in the same batch the canvases that will probably follow it.

    A draft is the canvas with some of the tokens filled in that were chosen but not committed in the last step; the
    drafts are the sets of tokens that are most probably committed next. As long as the rule makes a canvas that
    was drafted, its output is known already. The text is always that of `Whole`, in fewer and larger forwards.
    FreeDave (arXiv 2510.00294) drafts one order of commits; sets, in which several orders meet, are
    reached more often.

    Attributes:
        ahead: canvases in a batch, for each canvas that is decoded.
    """

    name = "drafts"
    ahead: int

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        return self.ahead * (prompt + masks), masks

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        return DraftsState(model, canvas, self.ahead)


# How often the surest chosen token of a step, the second, ... is the next one committed; measured on `pocket-1`.
_NEXT = (0.6, 0.18, 0.08, 0.04, 0.02)


def draft_sets(count: int) -> list[frozenset[int]]:
    """The `count` sets of tokens most likely to be committed next, the empty set first.

    A token is given by its rank, 0 for the surest. Order does not matter: two tokens committed in
    either order give the same canvas.
    """
    reached = {frozenset[int](): 1.0}  # the sets chosen, and the probability of passing through each
    reach: dict[frozenset[int], float] = {}
    latest = frozenset[int]()
    while len(reached) < count:
        rest = (rank for rank in range(count + len(_NEXT)) if rank not in latest)
        for rank, share in zip(rest, _NEXT, strict=False):
            following = latest | {rank}
            reach[following] = reach.get(following, 0.0) + reached[latest] * share
        latest = max((one for one in reach if one not in reached), key=lambda one: (reach[one], -sum(one)))
        reached[latest] = reach[latest]
    return list(reached)


@dataclass(frozen=True, eq=False)
class Choices:
    """The tokens chosen in the last step: candidates' positions, tokens and scores, `[R]` each."""

    positions: NDArray[np.int32]
    tokens: NDArray[np.int32]
    scores: NDArray[np.float32]


class DraftsState(WindowState):
    """`Drafts` at work: the drafts of the last forward and their hidden states."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, ahead: int):
        self._shift, self._mask_id = model.shift, canvas.mask_id
        self._sets = draft_sets(ahead)
        self._drafts = np.zeros((0, len(canvas.tokens)), dtype=np.int32)  # [K, L]
        self._hidden = mx.zeros((0,))  # [K, L, D]
        self._choices: Choices | None = None

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        is_drafted, forwarded = (self._drafts == tokens).all(axis=-1), 0  # [K]
        if not is_drafted.any():
            self._drafts = drafts_of(tokens, self._mask_id, self._choices, self._sets)
            self._hidden = yield Part(from_numpy(self._drafts))
            is_drafted, forwarded = np.ones(1), self._drafts.size  # the canvas itself is first
        hidden = self._hidden[int(is_drafted.argmax())][None]  # [1, L, D]
        positions, masked = candidates_of(tokens == self._mask_id)
        predicting = rows_of(hidden, predictor_of(positions, self._shift))
        return ForwardOutput(positions, masked, predicting, forwarded, (0, len(tokens)))

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        self._choices = Choices(output.positions, result.chosen, result.scores)
        return result


def drafts_of(tokens: NDArray[np.int32], mask_id: int, choices: Choices | None, sets: list[frozenset[int]]) -> NDArray[np.int32]:
    """The canvas itself, and canvases with some of the last step's chosen tokens filled in.

    Args:
        tokens: the canvas, int32 `[L]`.
        mask_id: the mask token.
        choices: those of the last step; None before the first.
        sets: as `draft_sets` gives them: ranks among the choices that are still masked.

    Returns:
        int32 `[K, L]`, the canvas itself first; K is the number of sets, or 1 without choices.
    """
    if choices is None:
        return tokens[None]
    drafts = np.stack([tokens] * len(sets))
    order = np.argsort(-choices.scores, kind="stable")
    left = [index for index in order if tokens[choices.positions[index]] == mask_id]
    for draft, ranks in zip(drafts, sets, strict=True):
        filled = [left[rank] for rank in ranks if rank < len(left)]
        draft[choices.positions[filled]] = choices.tokens[filled]
    return drafts
