"""pass@k and how far it can be trusted. Knows no model."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
SEED = 0  # the interval of the same results is the same interval


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that one of k answers passes, estimated without bias from `samples` of which `passed` did.

    Equation 1 of the Codex paper (arXiv 2107.03374): 1 - C(n - c, k) / C(n, k), as a product.

    Raises:
        ValueError: `k` is not between 1 and `samples`, or `passed` not between 0 and `samples`.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} cannot be estimated from {samples} samples of which {passed} passed")
    if samples - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


def confidence_interval(scores: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `scores` (one a task), over the choice of tasks.

    It says nothing about the randomness of sampling within a task. Where every score is the same it
    has no width, which is not certainty: 20 of 20 does not show a pass rate of 1.

    Raises:
        ValueError: `scores` is empty.
    """
    if not len(scores):
        raise ValueError("there is no interval of no scores")
    values = np.asarray(scores, dtype=np.float64)
    rng = np.random.default_rng(SEED)
    # One resample at a time: 10,000 of a large benchmark at once would be hundreds of megabytes.
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
