"""KL divergence and agreement between two networks at the masked positions of the same canvases.

Both distributions range over the ids that may be generated, without truncation. The first network is the
reference: the divergence is KL(reference || other), in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..decoding.sampling import score_entropy
from ..statistics import order_agreement, ratio_intervals
from .forwards import Outputs
from .masking import Masked

CHUNK_BYTES = 2**26  # of one network's float32 logits at once: 110 positions of 152064 ids

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Reading:
    """Two networks at the masked positions of one canvas.

    Attributes:
        canvas: the canvas.
        kl: float32 `[n]`, KL(reference || other), in nats.
        same: bool `[n]`, whether both give the same token the highest probability.
        nll, other_nll: float32 `[n]`, -log p of the original token: the reference's and the other's.
        order: the share of pairs of positions that both would commit in the same order; None for a
            single position.
        first: whether both would commit the same position first.
    """

    canvas: Masked
    kl: Floats
    same: NDArray[np.bool_]
    nll: Floats
    other_nll: Floats
    order: float | None
    first: bool


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Means of readings: over masked positions, and for the commit order over canvases.

    Attributes:
        canvases, positions: the number of each.
        kl: KL(reference || other), nats a masked position.
        top1: share of positions with the same most probable token.
        order: share of pairs of positions of a canvas that both commit in the same order: lower entropy
            first, ties from the left, as the decoder does by default. 0.5 is chance; Kendall's tau is
            2 * order - 1. None if no canvas has two masks.
        first: share of canvases on which both commit the same position first.
        perplexity, other_perplexity: exp of the mean of -log p of the original tokens. Over pairs of
            complementary masks this is the coupled estimator (DiffuCoder, arXiv 2506.20639), not a bound
            on the likelihood.
        kl_interval, top1_interval, order_interval: the 95 % bootstrap intervals over texts.
    """

    canvases: int
    positions: int
    kl: float
    top1: float
    order: float | None
    first: float
    perplexity: float
    other_perplexity: float
    kl_interval: tuple[float, float]
    top1_interval: tuple[float, float]
    order_interval: tuple[float, float] | None

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Self:
        """The means of at least one reading.

        Raises:
            ValueError: there is no reading.
        """
        if not readings:
            raise ValueError("no readings: there is nothing to average")
        above, below = _by_text(readings)
        with np.errstate(invalid="ignore"):
            kl, top1, order, first, nll, other_nll = (above.sum(0) / below.sum(0)).tolist()
        kl_interval, top1_interval, order_interval = ratio_intervals(above[:, :3], below[:, :3])
        ordered = not np.isnan(order)
        return cls(
            canvases=len(readings),
            positions=sum(len(reading.kl) for reading in readings),
            kl=kl,
            top1=top1,
            order=order if ordered else None,
            first=first,
            perplexity=float(np.exp(nll)),
            other_perplexity=float(np.exp(other_nll)),
            kl_interval=kl_interval,
            top1_interval=top1_interval,
            order_interval=order_interval if ordered else None,
        )


def readings(reference: Outputs, other: Outputs, canvases: Sequence[Masked], forbidden: mx.array) -> list[Reading]:
    """Compare two networks' outputs on each canvas.

    Logits are computed for a few positions at a time, so memory does not grow with the canvases.

    Args:
        reference, other: outputs for the same `canvases`.
        forbidden: bool `[V]`, ids never to be generated, as `forbidden_ids` gives them.

    Raises:
        NotANumber: an output is not finite.
    """
    most = max(1, CHUNK_BYTES // (4 * forbidden.size))
    targets = from_numpy(np.concatenate([canvas.targets for canvas in canvases]))
    parts, done = [], 0
    for first, second in zip(reference.logits(most), other.logits(most), strict=True):
        parts.append(_columns(first, second, targets[done : done + len(first)], forbidden))
        done += len(first)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    ends = np.cumsum([len(canvas.positions) for canvas in canvases])[:-1]
    each = zip(*(np.split(column, ends) for column in columns), strict=True)
    return [_reading(canvas, *own) for canvas, own in zip(canvases, each, strict=True)]


class NotANumber(ArithmeticError):
    """A network's output is not finite; `reference` says whether it is the reference's."""

    def __init__(self, reference: bool):
        super().__init__("the model's output is not a number")
        self.reference = reference


def _columns(first: mx.array, second: mx.array, targets: mx.array, forbidden: mx.array) -> list[NDArray[np.generic]]:
    """KL, agreement, and each network's -log p of the target and score, `[n]`, from logits `[n, V]`."""
    log_p, log_q = _log_probs(first, forbidden), _log_probs(second, forbidden)
    p, q = mx.exp(log_p), mx.exp(log_q)
    best, other_best = mx.argmax(log_p, axis=-1), mx.argmax(log_q, axis=-1)
    at, unused = targets[:, None], mx.random.key(0)
    columns = [
        # With q - p, whose sum is 0, the rounding of the two normalisers cancels: KLs of 1e-7 are still told from 0.
        mx.where(forbidden, 0, p * (log_p - log_q) + (q - p)).sum(axis=-1),
        best == other_best,
        -mx.take_along_axis(log_p, at, axis=-1)[:, 0],
        -mx.take_along_axis(log_q, at, axis=-1)[:, 0],
        score_entropy(p, best, unused),
        score_entropy(q, other_best, unused),
    ]
    mx.eval(columns)
    arrays = [np.array(column) for column in columns]
    for reference, score in ((True, arrays[4]), (False, arrays[5])):
        if not np.isfinite(score).all():
            raise NotANumber(reference)
    return arrays


def _log_probs(logits: mx.array, forbidden: mx.array) -> mx.array:
    logits = mx.where(forbidden, -mx.inf, logits.astype(mx.float32))
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - mx.log(mx.exp(shifted).sum(axis=-1, keepdims=True))


def _reading(canvas: Masked, kl: Any, same: Any, nll: Any, other_nll: Any, score: Any, other_score: Any) -> Reading:
    order, other_order = commit_order(score), commit_order(other_score)
    agreed = order_agreement(np.argsort(order), np.argsort(other_order))
    return Reading(canvas, kl, same, nll, other_nll, agreed, bool(order[0] == other_order[0]))


def commit_order(scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Positions in the order of their commits: the best score first, ties from the left."""
    return np.argsort(-scores, kind="stable")


def _by_text(readings: Sequence[Reading]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts `[texts, 6]` of kl, top1, order, first, nll, other_nll."""
    texts = {text: row for row, text in enumerate(dict.fromkeys(reading.canvas.text for reading in readings))}
    above, below = np.zeros((len(texts), 6)), np.zeros((len(texts), 6))
    for reading in readings:
        row, count, ordered = texts[reading.canvas.text], len(reading.kl), reading.order is not None
        sums = (reading.kl, reading.same, reading.order or 0.0, reading.first, reading.nll, reading.other_nll)
        above[row] += [float(np.sum(values, dtype=np.float64)) for values in sums]
        below[row] += (count, count, ordered, 1, count, count)
    return above, below
