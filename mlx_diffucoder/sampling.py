"""From logits to a token and a score at every position asked for.

All functions are pure, work on the last axis, and compute in float32 whatever the model's dtype.
Source: `sample_tokens` of the reference decoder (Dream, arXiv 2508.15487; DiffuCoder, 2506.20639).
"""

from collections.abc import Callable

import mlx.core as mx

from .config import GenerationConfig

Score = Callable[[mx.array, mx.array, mx.array], mx.array]
"""`(probs [..., V], tokens [...], key) -> [...]`; the larger, the sooner the token is committed."""


def draw(logits: mx.array, config: GenerationConfig, key: mx.array) -> tuple[mx.array, mx.array]:
    """Choose a token at every position.

    Args:
        logits: `[..., V]`; minus infinity forbids an id.
        config: `temperature`, `top_p` and `top_k`, applied in this order. At temperature 0 the
            truncation still shapes the probabilities, and with them the scores.
        key: of the random draw; not used at temperature 0.

    Returns:
        `(tokens [...], probs [..., V])`, the probabilities truncated and renormalised.
    """
    logits = logits.astype(mx.float32)
    if config.temperature > 0:
        # Shifted first, so that the tiniest temperature overflows to minus infinity, not to NaN.
        logits = (logits - logits.max(axis=-1, keepdims=True)) / config.temperature
    if config.top_p < 1:
        logits = keep_top_p(logits, config.top_p)
    if config.top_k:
        logits = keep_top_k(logits, config.top_k)
    probs = mx.softmax(logits, axis=-1)
    if config.temperature > 0:
        return mx.random.categorical(logits, key=key), probs
    return mx.argmax(probs, axis=-1), probs


def keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """Forbid every token that stands behind a cumulative probability above `top_p`.

    The token that crosses the line stays, and so does the best one, always (arXiv 1904.09751).
    """
    order = mx.argsort(-logits, axis=-1)
    sorted_probs = mx.softmax(mx.take_along_axis(logits, order, axis=-1), axis=-1)
    behind = mx.cumsum(sorted_probs, axis=-1, inclusive=False) > top_p
    drop = mx.put_along_axis(mx.zeros_like(behind), order, behind, axis=-1)
    return mx.where(drop, -mx.inf, logits)


def keep_top_k(logits: mx.array, top_k: int) -> mx.array:
    """Forbid every token below the k-th largest logit; ties with it stay."""
    k = min(top_k, logits.shape[-1])
    kth = mx.topk(logits, k, axis=-1).min(axis=-1, keepdims=True)
    return mx.where(logits < kth, -mx.inf, logits)


def score_maskgit_plus(probs: mx.array, tokens: mx.array, key: mx.array) -> mx.array:
    """The probability of the chosen token (MaskGIT, arXiv 2202.04200)."""
    return mx.take_along_axis(probs, tokens[..., None], axis=-1)[..., 0]


def score_topk_margin(probs: mx.array, tokens: mx.array, key: mx.array) -> mx.array:
    """p1 - p2, the two largest probabilities (arXiv 2502.06768)."""
    best = mx.arange(probs.shape[-1]) == mx.argmax(probs, axis=-1, keepdims=True)
    return probs.max(axis=-1) - mx.where(best, -mx.inf, probs).max(axis=-1)


def score_entropy(probs: mx.array, tokens: mx.array, key: mx.array) -> mx.array:
    """Negative entropy, with the reference's 1e-10 inside the logarithm (nats)."""
    return (probs * mx.log(probs + 1e-10)).sum(axis=-1)


def score_origin(probs: mx.array, tokens: mx.array, key: mx.array) -> mx.array:
    """A uniformly random order."""
    return mx.random.uniform(shape=tokens.shape, key=key)


SCORES: dict[str, Score] = {
    "entropy": score_entropy,
    "maskgit_plus": score_maskgit_plus,
    "topk_margin": score_topk_margin,
    "origin": score_origin,
}
"""By the name that `GenerationConfig.alg` gives them."""
