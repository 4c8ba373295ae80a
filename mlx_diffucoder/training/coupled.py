"""The coupled estimator of log π, and the clipped objective built on it.

DiffuCoder, arXiv 2506.20639, section 4. Our reading of its equations, for token k of an answer o to a prompt c:

    log π(o_k) = 1/(λ + 1) · [ ℓ_1(k) + Σ over λ pairs (t, 1 - t) of ( ℓ_t(k) + ℓ_1-t(k) ) ],       λ = 1
    ℓ_t(k)     = 1/t · log p(o_k | c, the visible part of o)  if the mask of t hides k, otherwise 0

The masks of a pair are complementary: the mask of t hides each token with probability t, drawn from [0.2, 0.8],
and the mask of 1 - t hides the others. So a pair scores each token exactly once, with other tokens visible as
they are while decoding. ℓ_1 is the canvas with the whole answer hidden. Both halves of the sum are weighted 1/t,
as in the masked-diffusion bound. So log π is not a normalised log-probability: its mean over pairs is about one and
a half times one. It is only used in differences of two, with the same masks in both:

    ρ_k  = exp(log π(o_k) - log π_old(o_k))
    loss = - mean over answers, and over the tokens of each, of  min(ρ_k A, clip(ρ_k, 1 - ε, 1 + ε) A) - β KL_k
    KL_k = exp(log π_ref - log π) - (log π_ref - log π) - 1

`tests/training/test_coupled.py` computes it token by token.

An answer's tokens are those up to and including its end token. The padding after it is hidden as well, as it is
while decoding, but it is not scored. The temperature of log p is 1, whatever the rollouts used.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..models.context import hidden_of
from ..models.transformer import DiffusionModel
from .recompute import cross_entropies

T_RANGE = (0.2, 0.8)
FURTHEST = 20.0  # differences of two log π are clipped here, so that no exponential overflows
CANVASES = 3  # per answer: one with all of it hidden, and the pair


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to one prompt, on their canvases.

    Attributes:
        tokens: int32 `[N, L]`: prompt, answer, padding after its end.
        start: first position of the answers.
        lengths: int64 `[N]`, tokens of each answer, its end token included.
    """

    tokens: NDArray[np.int32]
    start: int
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, which: slice) -> "Answers":
        return Answers(self.tokens[which], self.start, self.lengths[which])

    @property
    def hidden(self) -> NDArray[np.bool_]:
        """`[N, L]`, the positions hidden at the start of decoding: everything after the prompt."""
        return np.broadcast_to(np.arange(self.tokens.shape[1]) >= self.start, self.tokens.shape)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """`[N, L]`, the positions to score: up to and including the end token."""
        place = np.arange(self.tokens.shape[1])
        return (place >= self.start) & (place < self.start + self.lengths[:, None])


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


def clipped_loss(
    now: mx.array, old: mx.array, reference: mx.array, advantages: mx.array, shares: mx.array, *, clip_ratio: float, kl: float
) -> mx.array:
    """The loss over M tokens.

    Args:
        now: `[M]`, log π of the weights in training.
        old: `[M]`, log π of the weights that generated the answers; empty if they are the same.
        reference: `[M]`, log π of the reference model; ignored if `kl` is 0.
        shares: `[M]`, the weight of each token: 1 / (answers · tokens of its answer).
    """
    before = mx.stop_gradient(now) if old.size == 0 else old
    ratio = mx.exp(mx.clip(now - before, -FURTHEST, FURTHEST))
    gain = mx.minimum(ratio * advantages, mx.clip(ratio, 1 - clip_ratio, 1 + clip_ratio) * advantages)
    if kl:
        gap = mx.clip(reference - now, -FURTHEST, FURTHEST)
        gain = gain - kl * (mx.exp(gap) - gap - 1)
    return -(shares * gain).sum()


def leave_one_out(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Advantages `[G]`: each reward minus the mean of the others for the same prompt; exactly 0 if all are equal."""
    if (rewards == rewards[0]).all():
        return np.zeros(len(rewards))
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)
