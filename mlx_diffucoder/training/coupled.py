"""The coupled estimator of log π, and the clipped objective that is made of it.

DiffuCoder, arXiv 2506.20639, section 4. As its equations are read here, for token k of an answer o to a prompt c:

    log π(o_k) = 1/(λ + 1) · [ ℓ_1(k) + Σ over λ pairs (t, 1 - t) of ( ℓ_t(k) + ℓ_1-t(k) ) ],       λ = 1
    ℓ_t(k)     = 1/t · log p(o_k | c, what is left of o)  where the mask of t hides k, otherwise 0

The masks of a pair are complementary: that of t hides each token with probability t, drawn from [0.2, 0.8], and
that of 1 - t hides the others. So a pair asks for each token exactly once, with others in sight as there are
while decoding; ℓ_1 is the canvas with the whole answer hidden. Both halves of the sum are weighted 1/t, as in the
masked-diffusion bound; so log π is no normalised log-probability, and over the draws of a pair its mean is about one
and a half times one. What is made of it is only ever a difference of two, with the same masks in both:

    ρ_k  = exp(log π(o_k) - log π_old(o_k))
    loss = - mean over answers, and over the tokens of each, of  min(ρ_k A, clip(ρ_k, 1 - ε, 1 + ε) A) - β KL_k
    KL_k = exp(log π_ref - log π) - (log π_ref - log π) - 1

`tests/training/test_coupled.py` writes it out one token after another.

An answer's tokens are those up to and with its end token. The padding behind it is hidden with them, for so
it is while decoding, but nothing is asked of it. The temperature of log p is 1, whatever the rollouts had.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..models.transformer import DiffusionModel
from .recompute import cross_entropies

T_RANGE = (0.2, 0.8)
FURTHEST = 20.0  # differences of two log π are cut there, so that no exponential overflows
CANVASES = 3  # forwarded for an answer: all of it hidden, and the pair


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to one prompt, on the canvases that they were written on.

    Attributes:
        tokens: int32 `[N, L]`: prompt, answer, padding behind its end.
        start: where the answers start.
        lengths: int64 `[N]`, the tokens of each, its end token with them.
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
        """`[N, L]`, what is hidden while they are written: all behind the prompt."""
        return np.broadcast_to(np.arange(self.tokens.shape[1]) >= self.start, self.tokens.shape)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """`[N, L]`, what is theirs: up to and with the end token."""
        place = np.arange(self.tokens.shape[1])
        return (place >= self.start) & (place < self.start + self.lengths[:, None])


@dataclass(frozen=True, eq=False)
class Pair:
    """Complementary masks over some answers.

    Attributes:
        first: bool `[N, L]`, what the mask of t hides; the other hides the rest of what is hidden at all.
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
    """What is forwarded to score M tokens, and where each is read, twice: one row to its left.

    Attributes:
        tokens: int32 `[3N, L]`: all hidden, the pair's first masks, and its second.
        full, paired: int32 `[M]`, rows of the flattened `[3N · L]`.
        targets: int32 `[M]`.
        weights: float32 `[M]`, 1/t of the mask of the pair that hides the token.
        owner: int64 `[M]`, whose token it is.
    """

    tokens: NDArray[np.int32]
    full: NDArray[np.int32]
    paired: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, answers: Answers, pair: Pair, mask_id: int) -> "Questions":
        hidden = answers.hidden
        masks = np.concatenate([hidden, pair.first, hidden & ~pair.first])
        canvases = np.where(masks, np.int32(mask_id), np.tile(answers.tokens, (CANVASES, 1)))
        owner, place = np.nonzero(answers.scored)
        count, length = answers.tokens.shape
        in_first = pair.first[owner, place]
        canvas = owner + np.where(in_first, count, 2 * count)
        t = np.where(in_first, pair.t[owner], 1 - pair.t[owner])
        return cls(
            canvases,
            (owner * length + place - 1).astype(np.int32),
            (canvas * length + place - 1).astype(np.int32),
            answers.tokens[owner, place],
            (1 / t).astype(np.float32),
            owner,
        )

    def arrays(self) -> tuple[mx.array, ...]:
        """What `log_pi` takes after the model."""
        return tuple(mx.array(one) for one in (self.tokens, self.full, self.paired, self.targets, self.weights))


def log_pi(
    model: DiffusionModel, tokens: mx.array, full: mx.array, paired: mx.array, targets: mx.array, weights: mx.array
) -> mx.array:
    """`[M]`, the coupled estimate for each token; arguments as in `Questions`."""
    hidden = model.model(tokens, 0, None, None)  # [3N, L, D]
    read = hidden.reshape(-1, hidden.shape[-1])[mx.concatenate([full, paired])]  # [2M, D]
    losses = cross_entropies(model, read, mx.concatenate([targets, targets]))
    return -0.5 * (losses[: len(targets)] + weights * losses[len(targets) :])


def clipped_loss(
    now: mx.array, old: mx.array, reference: mx.array, advantages: mx.array, shares: mx.array, *, clip_ratio: float, kl: float
) -> mx.array:
    """The objective of M tokens, to be made small.

    Args:
        now: `[M]`, log π of the weights that learn.
        old: `[M]`, that of those that wrote the answers; empty where they are the same.
        reference: `[M]`, that of the reference model; not looked at where `kl` is 0.
        shares: `[M]`, what each token counts: one over the answers and the answer's tokens.
    """
    before = mx.stop_gradient(now) if old.size == 0 else old
    ratio = mx.exp(mx.clip(now - before, -FURTHEST, FURTHEST))
    gain = mx.minimum(ratio * advantages, mx.clip(ratio, 1 - clip_ratio, 1 + clip_ratio) * advantages)
    if kl:
        gap = mx.clip(reference - now, -FURTHEST, FURTHEST)
        gain = gain - kl * (mx.exp(gap) - gap - 1)
    return -(shares * gain).sum()


def leave_one_out(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[G]`: each reward less the mean of the others to the same prompt; 0 to the bit where all are the same."""
    if (rewards == rewards[0]).all():
        return np.zeros(len(rewards))
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)
