"""The coupled estimator of log π.

DiffuCoder, arXiv 2506.20639, section 4. Our reading of its equations, for token k of an answer o to a prompt c:

    log π(o_k) = 1/(λ + 1) · [ ℓ_1(k) + Σ over λ pairs (t, 1 - t) of ( ℓ_t(k) + ℓ_1-t(k) ) ],       λ = 1
    ℓ_t(k)     = 1/t · log p(o_k | c, the visible part of o)  if the mask of t hides k, otherwise 0

The masks of a pair are complementary: the mask of t hides each token with probability t, drawn from [0.2, 0.8],
and the mask of 1 - t hides the others. So a pair scores each token exactly once, with other tokens visible as
they are while decoding. ℓ_1 is the canvas with the whole answer hidden. Both halves of the sum are weighted 1/t,
as in the masked-diffusion bound. So log π is not a normalised log-probability: its mean over pairs is about one and
a half times one. It is only used in differences of two, with the same masks in both, as `policy.py` does.

`tests/training/test_coupled.py` computes it token by token.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..models.context import hidden_of
from ..models.transformer import DiffusionModel
from .policy import Answers
from .recompute import cross_entropies

T_RANGE = (0.2, 0.8)
CANVASES = 3  # per answer: one with all of it hidden, and the pair


@dataclass(frozen=True, eq=False)
class Pair:
    """Complementary masks over some answers.

    Attributes:
        first: bool `[N, L]`, the positions that the mask of t hides; the other mask hides the rest of `hidden`.
        t: float64 `[N]`.
    """

    first: NDArray[np.bool_]
    t: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, answers: Answers) -> "Pair":
        t = rng.uniform(*T_RANGE, len(answers))
        return cls(answers.hidden & (rng.random(answers.tokens.shape) < t[:, None]), t)


@dataclass(frozen=True, eq=False)
class Questions:
    """The canvases that score M tokens, and the two positions of each.

    Attributes:
        tokens: int32 `[3N, L]`: everything hidden, the pair's first masks, its second masks.
        clean: int32 `[3N, L]`, the same without masks.
        full, paired: int32 `[M]`, positions in the flattened `[3N · L]`.
        targets: int32 `[M]`, the ids to score.
        weights: float32 `[M]`, 1/t of the mask of the pair that hides the token.
        owner: int64 `[M]`, the answer that the token belongs to.
    """

    tokens: NDArray[np.int32]
    clean: NDArray[np.int32]
    full: NDArray[np.int32]
    paired: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, answers: Answers, pair: Pair, mask_id: int) -> "Questions":
        hidden = answers.hidden
        masks = np.concatenate([hidden, pair.first, hidden & ~pair.first])
        clean = np.tile(answers.tokens, (CANVASES, 1))
        owner, place = np.nonzero(answers.scored)
        count, length = answers.tokens.shape
        in_first = pair.first[owner, place]
        canvas = owner + np.where(in_first, count, 2 * count)
        t = np.where(in_first, pair.t[owner], 1 - pair.t[owner])
        return cls(
            np.where(masks, np.int32(mask_id), clean),
            clean,
            (owner * length + place).astype(np.int32),
            (canvas * length + place).astype(np.int32),
            answers.tokens[owner, place],
            (1 / t).astype(np.float32),
            owner,
        )

    def arrays(self) -> tuple[mx.array, ...]:
        """The arguments of `log_pi` after the model."""
        return tuple(from_numpy(one) for one in (self.tokens, self.clean, self.full, self.paired, self.targets, self.weights))


def log_pi(
    model: DiffusionModel,
    tokens: mx.array,
    clean: mx.array,
    full: mx.array,
    paired: mx.array,
    targets: mx.array,
    weights: mx.array,
) -> mx.array:
    """The coupled estimate of log π for each token, `[M]`. Arguments as in `Questions`."""
    hidden = hidden_of(model, tokens, clean)  # [3N, L, D]
    rows = mx.concatenate([full, paired]) - model.shift
    read = hidden.reshape(-1, hidden.shape[-1])[rows]  # [2M, D]
    losses = cross_entropies(model, read, mx.concatenate([targets, targets]))
    return -0.5 * (losses[: len(targets)] + weights * losses[len(targets) :])


class Coupled:
    """`Likelihood` by the coupled estimator, with masks drawn anew for each step."""

    drawn = True

    def __init__(self, mask_id: int):
        self._mask_id = mask_id

    def rows(self, prompt: int, answer: int) -> tuple[int, int, int]:
        return CANVASES, prompt + answer, 2 * answer

    def ask(self, answers: Answers, rng: np.random.Generator) -> Questions:
        return Questions.of(answers, Pair.draw(rng, answers), self._mask_id)

    def log_pi(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        return log_pi(model, *arrays)
