"""The probability a model gives to tokens that are already written."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..models.context import hidden_of
from ..models.transformer import DiffusionModel
from .canvas import predictor_of
from .step import ROWS

LEAST = -100.0
"""The log-probability of a token that can never be chosen."""


def log_probabilities(
    model: DiffusionModel, texts: Sequence[Sequence[int]], masks: Sequence[NDArray[np.int64]], mask_id: int, forbidden: mx.array
) -> list[NDArray[np.float32]]:
    """The log-probabilities of some tokens of texts while they are masked, in one forward.

    One forward of a masked-diffusion model gives no likelihood: the probability of a token depends on which others
    the model sees. With a pair of complementary masks, as `every_second` makes, each token is predicted
    exactly once, with about half of the others in view; DiffuCoder's coupled estimator does the same (arXiv 2506.20639).
    The result is a score to compare texts by, not a bound on their likelihood.

    Args:
        model: the network.
        texts: the ids of each canvas of the batch. A block-causal model takes texts of one length.
        masks: for each canvas, the positions that are masked, int64 `[n]`. With a shift of 1, leave out position 0: no
            position predicts it.
        mask_id: the mask token.
        forbidden: bool `[V]`, ids that have no probability.

    Returns:
        For each mask the log-probabilities of its tokens in nats, float32 `[n]`, at least `LEAST`.
    """
    lengths = np.array([len(ids) for ids in texts])
    inside = np.arange(lengths.max()) < lengths[:, None]  # [B, L]
    whole = np.full(inside.shape, mask_id, dtype=np.int32)
    whole[inside] = np.concatenate(texts)
    canvases = whole.copy()
    for canvas, positions in zip(canvases, masks, strict=True):
        canvas[positions] = mask_id
    if inside.all():
        hidden = hidden_of(model, mx.array(canvases), mx.array(whole))  # [B, L, D]
    else:  # shorter texts end in padding, which nothing sees
        hidden = model.model(mx.array(canvases), 0, mx.array(inside)[:, None, None], None)
    return [
        np.concatenate(
            [
                _of_rows(model, hidden[row : row + 1], whole[row, part], part, forbidden)
                for part in np.split(positions, range(ROWS, len(positions), ROWS))
            ]
        )
        for row, positions in enumerate(masks)
    ]


def mean_log_probability(
    model: DiffusionModel, ids: Sequence[int], start: int, mask_id: int, forbidden: mx.array
) -> tuple[float, int]:
    """How probable an answer is, by one forward of the pair of masks that `every_second` makes.

    Args:
        ids: the prompt and the answer.
        start: where the answer begins. Position 0 is left out, for nothing predicts it.
        mask_id, forbidden: as in `log_probabilities`.

    Returns:
        The mean log-probability of the answer's tokens in nats, 0 without any; and the positions that were forwarded.
    """
    masks = every_second(np.arange(max(1, start), len(ids)))
    values = np.concatenate(log_probabilities(model, [ids] * len(masks), masks, mask_id, forbidden))
    return float(values.mean()) if len(values) else 0.0, len(masks) * len(ids)


def _of_rows(
    model: DiffusionModel, hidden: mx.array, tokens: NDArray[np.int32], positions: NDArray[np.int64], forbidden: mx.array
) -> NDArray[np.float32]:
    if not len(positions):
        return np.zeros(0, dtype=np.float32)
    predictors = predictor_of(positions.astype(np.int32), np.zeros(1, dtype=np.int32), model.shift)  # [1, n]
    logits = model.logits(hidden, mx.array(predictors))[0].astype(mx.float32)  # [n, V]
    logits = mx.where(forbidden, -mx.inf, logits)
    chosen = mx.take_along_axis(logits, mx.array(tokens)[:, None], axis=-1)[:, 0]
    return np.array(mx.maximum(chosen - mx.logsumexp(logits, axis=-1), LEAST))


def every_second(positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A pair of complementary masks over `positions`, int64 `[n]`."""
    return [positions[::2], positions[1::2]]
