"""The masked-diffusion objective: which tokens of a canvas are masked, and the loss at these positions.

    L = E over t, masks of  (1/t) · Σ over masked i of  -log p(x_i | canvas),   divided by the number of target tokens.

With t uniform in (0, 1] and each token masked with probability t, this bounds the negative log-likelihood
(Dream 7B, arXiv 2508.15487, section 3; LLaDA, arXiv 2502.09992, equation 3). The distribution of position i
is in row i - `model.shift`. In a block-causal model a masked token sees the blocks before its own without masks.

The shift exists because these models started as autoregressive ones, and training can start that way here too. With the
causal objective nothing is masked, each row attends to itself and earlier rows, and every target token counts equally. With
the mixed one every second batch is still left to right, which keeps what was learnt while denoising is learnt. There the
prompt is visible as a whole (a prefix LM, arXiv 1910.10683, section 3.2.1) and masks fill the rest, as while denoising.

A canvas can also be masked from some position to its end, as decoding from the left leaves it. Tokens far after that
position are hardly determined, so they count less, by the geometric distribution with which Dream weighs tokens
(context-adaptive noise rescheduling, arXiv 2508.15487, section 3).

Far from all visible tokens a model tends to be overconfident, and a decoder that commits the most confident token first
starts there. Targets there can be smoothed (label smoothing: arXiv 1512.00567, section 7), more with growing distance.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..models.context import hidden_of
from ..models.transformer import DiffusionModel
from .recompute import cross_entropies

LEAST_T = 1e-3
"""The smallest timestep, as in the reference; without a bound 1/t has no finite variance."""
NEAR = 0.3  # p of the geometric distribution: the share of the loss of the first token after a prefix
SOON = 0.5  # each further mask before a target closes this share of the gap to full smoothing
ROWS = 64  # targets are padded to a multiple of this, so that there are few shapes


@dataclass(frozen=True, eq=False)
class Noised:
    """A masked batch with its targets.

    Attributes:
        tokens: int32 `[B, L]`, the canvases.
        clean: int32 `[B, L]`, the same without masks.
        positions: int32 `[M]`, the targets' positions in the flattened `[B · L]`; 0 for padding.
        targets: int32 `[M]`, the original ids.
        weights: float32 `[M]`, the weight of each loss; 0 for padding.
        seen: bool attention mask `[L, L]` or `[B, 1, L, L]`; size 0 means full attention.
        spread: float32 `[M]`, label smoothing of each target; size 0 means none.
    """

    tokens: NDArray[np.int32]
    clean: NDArray[np.int32]
    positions: NDArray[np.int32]
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
        """Apply masks to canvases.

        Args:
            tokens: `[B, L]`, with nothing masked.
            masked: `[B, L]`; never the first column, which no row predicts.
            weights: `[B, L]`, the weight of the loss of a masked token.
            smoothing: label smoothing of targets far from a visible token; 0 right after one.
        """
        asking = cls._asking(np.where(masked, np.int32(mask_id), tokens), tokens, masked, weights)
        if not smoothing:
            return asking
        spread = smoothing * (1 - (1 - SOON) ** (_since_shown(masked) - 1.0))[masked]
        return replace(asking, spread=np.pad(spread, (0, len(asking.positions) - len(spread))).astype(np.float32))

    @classmethod
    def left_to_right(cls, tokens: NDArray[np.int32], learnt: NDArray[np.bool_], count: int) -> Self:
        """Unmasked canvases with causal attention, for the causal objective."""
        asking = cls._asking(tokens, tokens, learnt, np.full(tokens.shape, 1 / count))
        return replace(asking, seen=np.tri(tokens.shape[1], dtype=np.bool_))

    @classmethod
    def after_prompts(cls, tokens: NDArray[np.int32], learnt: NDArray[np.bool_], mask_id: int, count: int) -> Self:
        """Left to right within the answers; prompts and trailing masks are visible to all rows.

        Args:
            learnt: `[B, L]`, the targets; those of a row are contiguous.
        """
        length = tokens.shape[1]
        places = np.arange(length)
        first, end = learnt.argmax(1)[:, None], length - learnt[:, ::-1].argmax(1)[:, None]
        around = (places < first) | (places >= end)
        shown = np.where(places >= end, np.int32(mask_id), tokens)
        asking = cls._asking(shown, tokens, learnt, np.full(tokens.shape, 1 / count))
        return replace(asking, seen=np.tri(length, dtype=np.bool_) | around[:, None, None])

    @classmethod
    def _asking(
        cls, shown: NDArray[np.int32], tokens: NDArray[np.int32], asked: NDArray[np.bool_], weights: NDArray[np.float64]
    ) -> Self:
        row, place = np.nonzero(asked)
        filling = -len(row) % ROWS if len(row) else ROWS
        return cls(
            shown,
            tokens,
            np.pad(row * tokens.shape[1] + place, (0, filling)).astype(np.int32),
            np.pad(tokens[row, place], (0, filling)).astype(np.int32),
            np.pad(weights[row, place], (0, filling)).astype(np.float32),
        )

    def arrays(self) -> tuple[mx.array, ...]:
        """The arguments of `loss` after the model."""
        shown = (self.tokens, self.clean)
        return tuple(from_numpy(one) for one in (*shown, self.positions, self.targets, self.weights, self.seen, self.spread))


def _since_shown(masked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Distance `[B, L]` to the nearest unmasked token at or to the left of each position."""
    places = np.broadcast_to(np.arange(masked.shape[1]), masked.shape)
    return places - np.maximum.accumulate(np.where(masked, 0, places), axis=1)


def timesteps(rng: np.random.Generator, count: int, least: float = LEAST_T) -> NDArray[np.float64]:
    """Stratified timesteps `[count]`: each is uniform in [least, 1], one in each of `count` equal parts, shuffled.

    Each alone is uniform, and together they vary less (the low-discrepancy sampler of variational diffusion
    models, arXiv 2107.00630, appendix I.1).
    """
    spread = (rng.permutation(count) + 1 - rng.random()) / count  # in (0, 1]
    return least + (1 - least) * spread


def draw_masks(rng: np.random.Generator, learnt: NDArray[np.bool_], t: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Masks, bool `[B, L]`: each target is masked with its canvas's probability t `[B]`."""
    return learnt & (rng.random(learnt.shape) < t[:, None])


def mask_from(place: int, count: int, length: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """A mask from position `place` to the end, and the weights of its losses, which sum to about `count`.

    Returns:
        bool `[length]`, and float64 `[length]`: `count` · p (1 - p)^d at distance d from the first mask.
    """
    distance = np.arange(length) - place
    return distance >= 0, count * NEAR * (1 - NEAR) ** np.maximum(distance, 0.0)


def loss(model: DiffusionModel, *arrays: mx.array) -> mx.array:
    """The weighted sum of the cross-entropies of the targets. Only the rows that predict one go through `lm_head`.

    Args:
        arrays: those of `Noised`, in order: tokens, clean, positions, targets, weights, seen, spread.
    """
    tokens, clean, positions, targets, weights, seen, spread = arrays
    hidden = model.model(tokens, 0, seen, None) if seen.size else hidden_of(model, tokens, clean)  # [B, L, D]
    rows = mx.maximum(positions - model.shift, 0)
    read = hidden.reshape(-1, hidden.shape[-1])[rows]  # [M, D]
    return (weights * cross_entropies(model, read, targets, spread)).sum()
