"""Log π of an answer as the decoder writes it from left to right, for all its tokens in one forward.

A token is predicted with the prompt and the tokens before it known, and the positions after it masked. The canvas holds, after
prompt and answer, the masks that each step of the decoder forwards. With two tokens a step (`EVERY`) and three masks (`MASKS`):

    positions   prompt p p p p   answer 4 5 6   masks 4 5 6   masks 6 7 8
    tokens             k k k k          c c c         _ _ _         _ _ _
    predicts                 4          5 6 7

The prompt sees itself and the first masks. A token of the answer sees the prompt, the tokens up to itself, and the masks after
it that its step forwards; these see the prompt, the tokens before the step, and each other. So keys and values are those of the
decoder, which caches a token's when it was forwarded after its commit. With `EVERY` 1 that is one token a step on the window
`sliding`, and with more a step of the window `tree` that commits as many. Without a shift the first mask of a step predicts,
and so each step has one token.

Source: JustGRPO, arXiv 2601.15165, which forwards a canvas for each token; the rows and the attention are our own.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..models.transformer import DiffusionModel
from .policy import Answers
from .recompute import cross_entropies

EVERY = 4  # tokens in a step: about what the tree commits, for a third of the rows that one token a step takes
MASKS = 28  # that a step forwards: those of the windows `tree:rows=32` and `sliding`


@dataclass(frozen=True, eq=False)
class Steps:
    """The canvases that score M tokens.

    Attributes:
        tokens: int32 `[N, R]`: prompt, answer, and the masks of each step.
        positions: int32 `[R]`.
        seen: bool `[R, R]`, what each row sees.
        rows: int32 `[M]`, the row that predicts each token, in the flattened `[N · R]`.
        targets: int32 `[M]`, the tokens.
        owner: int64 `[M]`, the answer that each belongs to.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    seen: NDArray[np.bool_]
    rows: NDArray[np.int32]
    targets: NDArray[np.int32]
    owner: NDArray[np.int64]

    def arrays(self) -> tuple[mx.array, ...]:
        return tuple(from_numpy(one) for one in (self.tokens, self.positions, self.seen, self.rows, self.targets))


class LeftToRight:
    """`Likelihood` from left to right, for models with a shift of `shift`."""

    drawn = False

    def __init__(self, mask_id: int, shift: int, every: int = EVERY, masks: int = MASKS):
        self._mask_id, self._shift, self._every, self._masks = mask_id, shift, every if shift else 1, masks

    def rows(self, prompt: int, answer: int) -> tuple[int, int, int]:
        return 1, prompt + answer - 1 + -(-answer // self._every) * self._masks, answer

    def ask(self, answers: Answers, rng: np.random.Generator) -> Steps:
        start, length, every = answers.start, answers.tokens.shape[1], self._every
        longest = int(answers.lengths.max())
        known = start + longest - 1  # nothing is predicted after the last token
        step = np.repeat(np.arange(-(-longest // every)), self._masks)
        at = np.arange(known)
        positions = np.concatenate([at, start + step * every + np.tile(np.arange(self._masks), len(step) // self._masks)])
        step = np.concatenate([np.maximum(at - start + 1, 0) // every, step])
        is_mask = np.arange(len(positions)) >= known
        own = (step[:, None] == step) & (is_mask[:, None] | (positions > positions[:, None]))  # masks of the same step
        first = start + step * every  # where a row's step begins
        last = np.where(is_mask, first - 1, np.maximum(positions, start - 1))
        seen = np.where(is_mask, own & (positions < length), positions <= last[:, None])
        np.fill_diagonal(seen, True)
        owner, place = np.nonzero(answers.scored)
        row = place - 1 if self._shift else known + (place - start) * self._masks
        masks = np.full((len(answers), len(positions) - known), self._mask_id, dtype=np.int32)
        return Steps(
            np.concatenate([answers.tokens[:, :known], masks], axis=1),
            positions.astype(np.int32),
            seen,
            (owner * len(positions) + row).astype(np.int32),
            answers.tokens[owner, place],
            owner,
        )

    def log_pi(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        tokens, positions, seen, rows, targets = arrays
        hidden = model.model(tokens, mx.broadcast_to(positions, tokens.shape), seen, None)
        return -cross_entropies(model, hidden.reshape(-1, hidden.shape[-1])[rows], targets)
