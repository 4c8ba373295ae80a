"""The masked-diffusion objective: which tokens of a canvas are masked, and the loss of what stood there.

    L = E over t, masks of  (1/t) · Σ over masked i of  -log p(x_i | canvas),   divided by the tokens to learn.

With t uniform in (0, 1] and each token masked with probability t, this bounds the negative log-likelihood
(Dream 7B, arXiv 2508.15487, section 3; LLaDA, arXiv 2502.09992, equation 3). The distribution of position i
is read at row i - 1: DiffuCoder's shift (arXiv 2506.20639).

The shift is there because these models were autoregressive ones first, and so can be begun here too: with the causal
objective nothing is masked, each row attends to itself and those before it, and every token to be learnt counts alike.
With the mixed one every second batch is from left to right still, and what was learnt so is kept while denoising is learnt;
but a prompt is seen whole there (a prefix LM, arXiv 1910.10683, section 3.2.1) and masks stand where nothing is, as while
denoising.

A canvas can be masked from a place on, too, as writing from the left leaves it. What it says of tokens far behind that place
is little; so theirs counts less, by the geometric distribution that Dream weighs tokens by (context-adaptive noise
rescheduling, arXiv 2508.15487, section 3).

What a model says far behind all that is shown it is too sure of, where the whole was never met; a decoder that commits the
surest token first begins there. Targets there can be smoothed (label smoothing: arXiv 1512.00567, section 7), the more the
farther they are.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..models.transformer import DiffusionModel
from .recompute import cross_entropies

LEAST_T = 1e-3
"""Where the reference's timesteps end; 1/t without an end has no finite variance."""
NEAR = 0.3  # the geometric distribution's p: the share that the first token behind a prefix has of the loss
SOON = 0.5  # each further mask before a target brings its smoothing so much of the way to the full one
ROWS = 64  # rows are filled up to a multiple of this, so that few shapes are met


@dataclass(frozen=True, eq=False)
class Noised:
    """A batch, and what is to be said about it.

    Attributes:
        tokens: int32 `[B, L]`, the canvases.
        rows: int32 `[M]`, rows of the flattened `[B · L]` to read, one to the left of each position that is asked for.
        targets: int32 `[M]`, the ids that stood there.
        weights: float32 `[M]`, what the loss of each counts; 0 for rows that only fill up.
        seen: bool, what each row attends to: `[L, L]`, or `[B, 1, L, L]`; of size 0 where that is everything.
        spread: float32 `[M]`, the share of each target that is spread over all tokens; of size 0 where none is.
    """

    tokens: NDArray[np.int32]
    rows: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    seen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))
    spread: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    @classmethod
    def of(
        cls,
        tokens: NDArray[np.int32],
        masked: NDArray[np.bool_],
        weights: NDArray[np.float64],
        mask_id: int,
        smoothing: float = 0.0,
    ) -> Self:
        """Canvases with their masks put on.

        Args:
            tokens: `[B, L]`, with nothing masked.
            masked: `[B, L]`; the first column is never, for no row predicts it.
            weights: `[B, L]`, what the loss of a masked token counts.
            smoothing: how much of a target is spread where many masks stand before it; nothing behind a shown token.
        """
        asking = cls._asking(np.where(masked, np.int32(mask_id), tokens), tokens, masked, weights)
        if not smoothing:
            return asking
        spread = smoothing * (1 - (1 - SOON) ** (_since_shown(masked) - 1.0))[masked]
        return replace(asking, spread=np.pad(spread, (0, len(asking.rows) - len(spread))).astype(np.float32))

    @classmethod
    def left_to_right(cls, tokens: NDArray[np.int32], learnt: NDArray[np.bool_], count: int) -> Self:
        """Canvases with nothing masked, asked for what is to be learnt; for the causal objective."""
        asking = cls._asking(tokens, tokens, learnt, np.full(tokens.shape, 1 / count))
        return replace(asking, seen=_before(tokens.shape[1]))

    @classmethod
    def behind_prompts(cls, tokens: NDArray[np.int32], learnt: NDArray[np.bool_], mask_id: int, count: int) -> Self:
        """From left to right, but that what is before and behind the answers is seen by all rows: prompts, and masks.

        Args:
            learnt: `[B, L]`; what is to be learnt of a row stands together.
        """
        length = tokens.shape[1]
        places = np.arange(length)
        first, end = learnt.argmax(1)[:, None], length - learnt[:, ::-1].argmax(1)[:, None]
        around = (places < first) | (places >= end)
        shown = np.where(places >= end, np.int32(mask_id), tokens)
        asking = cls._asking(shown, tokens, learnt, np.full(tokens.shape, 1 / count))
        return replace(asking, seen=_before(length) | around[:, None, None])

    @classmethod
    def _asking(
        cls, shown: NDArray[np.int32], tokens: NDArray[np.int32], asked: NDArray[np.bool_], weights: NDArray[np.float64]
    ) -> Self:
        row, place = np.nonzero(asked)
        filling = -len(row) % ROWS if len(row) else ROWS
        return cls(
            shown,
            np.pad(row * tokens.shape[1] + place - 1, (0, filling)).astype(np.int32),
            np.pad(tokens[row, place], (0, filling)).astype(np.int32),
            np.pad(weights[row, place], (0, filling)).astype(np.float32),
        )

    def arrays(self) -> tuple[mx.array, ...]:
        """What `loss` takes after the model."""
        return tuple(mx.array(one) for one in (self.tokens, self.rows, self.targets, self.weights, self.seen, self.spread))


def _since_shown(masked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`[B, L]`, how far the last token that is not masked is to the left; 0 for itself."""
    places = np.broadcast_to(np.arange(masked.shape[1]), masked.shape)
    return places - np.maximum.accumulate(np.where(masked, 0, places), axis=1)


def _before(length: int) -> NDArray[np.bool_]:
    return np.tri(length, dtype=np.bool_)


def timesteps(rng: np.random.Generator, count: int, least: float = LEAST_T) -> NDArray[np.float64]:
    """`[count]`, each uniform in [least, 1], and one in each of `count` equal parts of it, in any order.

    Each is as good as drawn alone, and together they vary less (the low-discrepancy sampler of
    variational diffusion models, arXiv 2107.00630, appendix I.1).
    """
    spread = (rng.permutation(count) + 1 - rng.random()) / count  # in (0, 1]
    return least + (1 - least) * spread


def draw_masks(rng: np.random.Generator, learnt: NDArray[np.bool_], t: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool `[B, L]`: each token that is to be learnt is masked with its canvas's probability t `[B]`."""
    return learnt & (rng.random(learnt.shape) < t[:, None])


def mask_from(place: int, count: int, length: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """A canvas that is masked from a place on, and what its tokens' losses count, which sums up to about `count`.

    Returns:
        bool `[length]`, and float64 `[length]`: `count` · p (1 - p)^d, d places behind the first mask.
    """
    behind = np.arange(length) - place
    return behind >= 0, count * NEAR * (1 - NEAR) ** np.maximum(behind, 0.0)


def loss(
    model: DiffusionModel,
    tokens: mx.array,
    rows: mx.array,
    targets: mx.array,
    weights: mx.array,
    seen: mx.array,
    spread: mx.array,
) -> mx.array:
    """The weighted sum of the cross-entropies of what is asked for; arguments as in `Noised`.

    Only the rows that are read go through `lm_head`.

    Args:
        seen: bool `[L, L]` or `[B, 1, L, L]`, what each row attends to; of size 0 where that is everything.
        spread: `[M]`, or of size 0.
    """
    hidden = model.model(tokens, 0, seen if seen.size else None, None)  # [B, L, D]
    read = hidden.reshape(-1, hidden.shape[-1])[rows]  # [M, D]
    return (weights * cross_entropies(model, read, targets, spread)).sum()
