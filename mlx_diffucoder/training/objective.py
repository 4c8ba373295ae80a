"""The masked-diffusion objective: which tokens of a canvas are masked, and the loss of what stood there.

    L = E over t, masks of  (1/t) · Σ over masked i of  -log p(x_i | canvas),   divided by the tokens to learn.

With t uniform in (0, 1] and each token masked with probability t, this bounds the negative log-likelihood
(Dream 7B, arXiv 2508.15487, section 3; LLaDA, arXiv 2502.09992, equation 3). The distribution of position i
is read at row i - 1: DiffuCoder's shift (arXiv 2506.20639).

The shift is there because these models were autoregressive ones first, and so can be begun here too: with the causal
objective nothing is masked, each row attends to itself and those before it, and every token to be learnt counts alike.
With the mixed one every second batch is so, and what was learnt from left to right is kept while denoising is learnt.
"""

from dataclasses import dataclass, replace
from typing import Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..model import Dream
from .recompute import cross_entropies

LEAST_T = 1e-3
"""Where the reference's timesteps end; 1/t without an end has no finite variance."""
ROWS = 64  # rows are filled up to a multiple of this, so that few shapes are met


@dataclass(frozen=True, eq=False)
class Noised:
    """A batch, and what is to be said about it.

    Attributes:
        tokens: int32 `[B, L]`, the canvases.
        rows: int32 `[M]`, rows of the flattened `[B · L]` to read, one to the left of each position that is asked for.
        targets: int32 `[M]`, the ids that stood there.
        weights: float32 `[M]`, 1/t over the number of tokens to learn; 0 for rows that only fill up.
        causal: whether a row attends only to itself and those before it.
    """

    tokens: NDArray[np.int32]
    rows: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    causal: bool = False

    @classmethod
    def of(
        cls,
        tokens: NDArray[np.int32],
        masked: NDArray[np.bool_],
        t: NDArray[np.float64],
        mask_id: int,
        count: int,
    ) -> Self:
        """Canvases with their masks put on.

        Args:
            tokens: `[B, L]`, with nothing masked.
            masked: `[B, L]`; the first column is never, for no row predicts it.
            t: `[B]`, each canvas's probability of a mask.
            count: what the sum of the losses is divided by.
        """
        return cls._asking(np.where(masked, np.int32(mask_id), tokens), tokens, masked, t, count)

    @classmethod
    def left_to_right(cls, tokens: NDArray[np.int32], learnt: NDArray[np.bool_], count: int) -> Self:
        """Canvases with nothing masked, asked for what is to be learnt; for the causal objective."""
        return replace(cls._asking(tokens, tokens, learnt, np.ones(len(tokens)), count), causal=True)

    @classmethod
    def _asking(
        cls, shown: NDArray[np.int32], tokens: NDArray[np.int32], asked: NDArray[np.bool_], t: NDArray[np.float64], count: int
    ) -> Self:
        row, place = np.nonzero(asked)
        filling = -len(row) % ROWS if len(row) else ROWS
        return cls(
            shown,
            np.pad(row * tokens.shape[1] + place - 1, (0, filling)).astype(np.int32),
            np.pad(tokens[row, place], (0, filling)).astype(np.int32),
            np.pad(1 / (t[row] * count), (0, filling)).astype(np.float32),
        )

    def arrays(self) -> tuple[mx.array, ...]:
        """What `loss` takes after the model."""
        places = np.arange(self.tokens.shape[1] if self.causal else 0)
        seen = places[:, None] >= places  # [L, L], or of size 0 where everything is
        return tuple(mx.array(one) for one in (self.tokens, self.rows, self.targets, self.weights, seen))


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


def loss(model: Dream, tokens: mx.array, rows: mx.array, targets: mx.array, weights: mx.array, seen: mx.array) -> mx.array:
    """The weighted sum of the cross-entropies of what is asked for; arguments as in `Noised`.

    Only the rows that are read go through `lm_head`.

    Args:
        seen: bool `[L, L]`, what each row attends to; of size 0 where that is everything.
    """
    hidden = model.model(tokens, 0, seen if seen.size else None, None)  # [B, L, D]
    read = hidden.reshape(-1, hidden.shape[-1])[rows]  # [M, D]
    return (weights * cross_entropies(model, read, targets)).sum()
