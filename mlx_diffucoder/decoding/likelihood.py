"""How probable a model finds tokens where they stand."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..models.transformer import DiffusionModel
from .step import ROWS

LEAST = -100.0
"""Of a token that can never be chosen."""


def log_probabilities(
    model: DiffusionModel, ids: Sequence[int], masks: Sequence[NDArray[np.int64]], mask_id: int, forbidden: mx.array
) -> list[NDArray[np.float32]]:
    """Of the tokens of one text: some are masked, and the model is asked for them, in one forward.

    A masked-diffusion model has no likelihood that a forward gives: what it says of a token depends on
    which others it sees. With a pair of complementary masks each token is asked for exactly once, with about half
    of the others in sight, as DiffuCoder's coupled estimator has it (arXiv 2506.20639); `every_second` makes such a
    pair. That is a score to compare texts by, not a bound of their likelihood.

    Args:
        ids: the text.
        masks: of each canvas, the places that are masked, all of them 1 or more: by the shift nothing predicts
            the first token.
        forbidden: bool `[V]`, ids that have no probability.

    Returns:
        For each mask the log-probabilities of its tokens, float32.
    """
    canvases = np.tile(np.array(ids, dtype=np.int32), (len(masks), 1))
    for canvas, places in zip(canvases, masks, strict=True):
        canvas[places] = mask_id
    hidden = model.model(mx.array(canvases), 0, None, None)  # [B, L, D]
    return [
        np.concatenate(
            [
                _of_rows(model, hidden[row : row + 1], np.array(ids)[part], part, forbidden)
                for part in np.split(places, range(ROWS, len(places), ROWS))
            ]
        )
        for row, places in enumerate(masks)
    ]


def _of_rows(
    model: DiffusionModel, hidden: mx.array, tokens: NDArray[np.int64], places: NDArray[np.int64], forbidden: mx.array
) -> NDArray[np.float32]:
    if not len(places):
        return np.zeros(0, dtype=np.float32)
    logits = model.logits(hidden, mx.array(places - 1)[None])[0].astype(mx.float32)  # [n, V]
    logits = mx.where(forbidden, -mx.inf, logits)
    chosen = mx.take_along_axis(logits, mx.array(tokens)[:, None], axis=-1)[:, 0]
    return np.array(mx.maximum(chosen - mx.logsumexp(logits, axis=-1), LEAST))


def every_second(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A pair of complementary masks over these places."""
    return [places[::2], places[1::2]]
