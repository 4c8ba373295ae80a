"""pass@k, confidence intervals of means and ratios, and how similar two orders are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
ENDS = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # quantiles: the ends of a 95 % interval
SEED = 0  # the same results always give the same interval


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """An unbiased estimate of the probability that at least one of k answers passes.

    Args:
        samples, passed: the number of answers, and of those that passed.

    Source: equation 1 of the Codex paper (arXiv 2107.03374), 1 - C(n - c, k) / C(n, k), as a product.

    Raises:
        ValueError: `k` is not between 1 and `samples`, or `passed` not between 0 and `samples`.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} cannot be estimated from {samples} samples of which {passed} passed")
    if samples - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


def confidence_interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `scores` (one a task), over the choice of tasks.

    It does not cover the randomness of sampling within a task. Where all scores are the same it has no width, but
    that is not certainty: 20 of 20 does not show a pass rate of 1.

    Raises:
        ValueError: `scores` is empty.
    """
    if not len(scores):
        raise ValueError("no scores: there is no interval")
    values = np.asarray(scores, dtype=np.float64)
    rng = np.random.default_rng(SEED)
    # One resample at a time: 10,000 of a large benchmark at once would be hundreds of megabytes.
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, ENDS)
    return float(low), float(high)


def ratio_intervals(above: NDArray[np.float64], below: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The 95 % percentile bootstrap intervals of ratios of sums, over the choice of the rows.

    Args:
        above, below: `[rows, measures]`; a measure is `above.sum(0) / below.sum(0)`. A row with 0 in both does not
            count for that measure.

    Returns:
        `(low, high)` of each measure; NaN where no row counts.
    """
    rows = len(above)
    rng = np.random.default_rng(SEED)
    drawn = []
    block = max(1, 2**22 // rows)  # this many resamples at once need 32 MB
    for start in range(0, RESAMPLES, block):
        counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(block, RESAMPLES - start)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            drawn.append((counts @ above) / (counts @ below))
    every = np.concatenate(drawn)
    found = [values[np.isfinite(values)] for values in every.T]  # a resample may miss the few rows that count
    quantiles = [np.quantile(values, ENDS) if len(values) else (np.nan, np.nan) for values in found]
    return [(float(low), float(high)) for low, high in quantiles]


def order_agreement(one: NDArray[np.integer[Any]], other: NDArray[np.integer[Any]]) -> float | None:
    """The share of all pairs of positions that two runs committed in the same order.

    Chance is one half; Kendall's tau is twice this minus 1. Pairs that either run committed in one step do not count,
    nor do positions that either run did not write.

    Args:
        one, other: for the same positions, the step that wrote each, int `[n]`; negative for no step.

    Returns:
        None if there is no such pair.
    """
    both = (one >= 0) & (other >= 0)
    first, second = one[both].astype(np.int64), other[both].astype(np.int64)
    same = _rises(second[np.lexsort((-second, first))])
    pairs = same + _rises((second.max(initial=0) - second)[np.lexsort((second, first))])
    return same / pairs if pairs else None


def _rises(values: NDArray[np.int64]) -> int:
    """The pairs whose second value is above the first, of values of 0 or more: merged halves count them, in n log² n."""
    count, place, width = 0, np.arange(len(values)), 1
    while width < len(values):
        block, right = place // (2 * width) * (values.max() + 1), place // width % 2 == 1
        left = np.sort((block + values)[~right])
        below = np.searchsorted(left, (block + values)[right]) - np.searchsorted(left, block[right])
        count, width = count + int(below.sum()), 2 * width
    return count
