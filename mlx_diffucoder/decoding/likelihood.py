"""The probability a model gives to tokens that are already written."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..models.context import hidden_of
from ..models.transformer import DiffusionModel
from .canvas import predictor_of
from .step import ROWS

LEAST = -100.0
"""The log-probability of a token that can never be chosen."""


def log_probabilities(
    model: DiffusionModel, hidden: mx.array, ids: NDArray[np.int32], rows: NDArray[np.int64], forbidden: mx.array
) -> NDArray[np.float32]:
    """The log-probabilities of some tokens of a text, from a forward in which they were masked.

    One forward of a masked-diffusion model gives no likelihood: the probability of a token depends on which others
    the model sees. With a pair of complementary masks, as `every_second` makes, each token is predicted
    exactly once, with about half of the others in view; DiffuCoder's coupled estimator does the same (arXiv 2506.20639).
    The result is a score to compare texts by, not a bound on their likelihood.

    Args:
        model: the network.
        hidden: hidden states `[1, L, D]` of the rows that were forwarded.
        ids: the text's tokens in these rows, int32 `[L]`.
        rows: those that were masked, int64 `[n]`; the row that predicts each must be right before it. With a shift of 1,
            leave out the text's first token: nothing predicts it.
        forbidden: bool `[V]`, ids that have no probability.

    Returns:
        In nats, float32 `[n]`, at least `LEAST`.
    """
    found = [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        predictors = from_numpy(predictor_of(some, model.shift)[None])  # [1, n]
        logits = model.logits(hidden, predictors)[0].astype(mx.float32)  # [n, V]
        logits = mx.where(forbidden, -mx.inf, logits)
        chosen = mx.take_along_axis(logits, from_numpy(ids[some])[:, None], axis=-1)[:, 0]
        found.append(np.array(mx.maximum(chosen - mx.logsumexp(logits, axis=-1), LEAST)))
    return np.concatenate(found)


def mean_log_probability(
    model: DiffusionModel, ids: Sequence[int], start: int, mask_id: int, forbidden: mx.array
) -> tuple[float, int]:
    """How probable an answer is, by one forward of the pair of masks that `every_second` makes.

    Args:
        ids: the prompt and the answer.
        start: where the answer begins. Position 0 is left out, for nothing predicts it.
        mask_id: the mask token.
        forbidden: as in `log_probabilities`.

    Returns:
        The mean log-probability of the answer's tokens in nats, 0 without any; and the positions that were forwarded.
    """
    masks = every_second(np.arange(max(1, start), len(ids)))
    whole = np.array(ids, dtype=np.int32)
    clean = np.stack([whole] * len(masks))
    canvases = clean.copy()
    for canvas, mask in zip(canvases, masks, strict=True):
        canvas[mask] = mask_id
    hidden = hidden_of(model, from_numpy(canvases), from_numpy(clean))  # [2, L, D]
    each = zip(mx.split(hidden, 2), masks, strict=True)
    values = np.concatenate([log_probabilities(model, one, whole, mask, forbidden) for one, mask in each])
    return float(values.mean()) if len(values) else 0.0, len(masks) * len(ids)


def every_second(positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A pair of complementary masks over `positions`, int64 `[n]`."""
    return [positions[::2], positions[1::2]]
