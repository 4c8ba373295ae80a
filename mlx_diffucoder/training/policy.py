"""What both kinds of GRPO share: answers on their canvases, their advantages, and the clipped objective.

    ρ_k  = exp(log π(o_k) - log π_old(o_k))
    loss = - mean over answers, and over the tokens of each, of  min(ρ_k A, clip(ρ_k, 1 - ε, 1 + ε) A) - β KL_k
    KL_k = exp(log π_ref - log π) - (log π_ref - log π) - 1

for token k of an answer o, with its advantage A. How log π is computed is the method's: `coupled.py` or `left_to_right.py`.

An answer's tokens are those up to and including its end token. The padding after it is hidden as well, as it is
while decoding, but it is not scored. The temperature of log p is 1, whatever the rollouts used.

Source: GRPO, arXiv 2402.03300; the advantage is leave-one-out, as in DiffuCoder, arXiv 2506.20639.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..models.transformer import DiffusionModel

FURTHEST = 20.0  # differences of two log π are clipped here, so that no exponential overflows


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


class Questions(Protocol):
    """What is forwarded to score the M tokens of some answers."""

    @property
    def tokens(self) -> NDArray[np.int32]:
        """What is forwarded, `[N, L]`."""

    @property
    def owner(self) -> NDArray[np.int64]:
        """The answer that each token belongs to, `[M]`."""

    def arrays(self) -> tuple[mx.array, ...]:
        """The arguments of `Likelihood.log_pi` after the model; `tokens` first."""


class Likelihood(Protocol):
    """How log π of an answer's tokens is computed."""

    @property
    def drawn(self) -> bool:
        """Whether questions are drawn anew for each step."""

    def rows(self, prompt: int, answer: int) -> tuple[int, int, int]:
        """Canvases of an answer, tokens on each, and rows of logits, for so many tokens of prompt and answer."""

    def ask(self, answers: Answers, rng: np.random.Generator) -> Questions:
        """The questions for some answers."""

    def log_pi(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        """Log π of each token, `[M]`."""


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
