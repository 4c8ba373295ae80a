"""From logits to a token and a score at every position asked for.

All functions are pure, work on the last axis, and compute in float32 whatever the model's dtype.
Source: `sample_tokens` of the reference decoder (Dream, arXiv 2508.15487; DiffuCoder, 2506.20639).
"""

from collections.abc import Callable

import mlx.core as mx

from ..config import GenerationConfig

Score = Callable[[mx.array, mx.array, mx.array], mx.array]
"""`(probs [..., V], tokens [...], key) -> [...]`; the larger, the sooner the token is committed."""


def draw(logits: mx.array, config: GenerationConfig, key: mx.array, *, sort: bool = True) -> tuple[mx.array, mx.array, mx.array]:
    """Choose a token at every position.

    Args:
        logits: `[..., V]`; minus infinity forbids an id.
        config: `temperature`, `top_p` and `top_k`, applied in this order. At temperature 0 the
            truncation still shapes the probabilities, and with them the scores.
        key: of the random draw; not used at temperature 0.
        sort: as `keep_top_p` has it.

    Returns:
        `(tokens [...], probs [..., V], complete [...])`: the probabilities truncated and
        renormalised; and whether the nucleus is all there, which only `sort=False` can fail at.
    """
    logits = logits.astype(mx.float32)
    if config.temperature > 0:
        # Shifted first, so that the tiniest temperature overflows to minus infinity, not to NaN.
        logits = (logits - logits.max(axis=-1, keepdims=True)) / config.temperature
    complete = mx.ones(logits.shape[:-1], dtype=mx.bool_)
    if config.top_p < 1:
        logits, complete = keep_top_p(logits, config.top_p, sort=sort)
    if config.top_k:
        logits = keep_top_k(logits, config.top_k)
    probs = mx.softmax(logits, axis=-1)
    tokens = mx.random.categorical(logits, key=key) if config.temperature > 0 else mx.argmax(probs, axis=-1)
    return tokens, probs, complete


def keep_top_p(logits: mx.array, top_p: float, *, sort: bool = True) -> tuple[mx.array, mx.array]:
    """Forbid every token that stands behind a cumulative probability above `top_p`.

    The token that crosses the line stays, so does the best one, always (arXiv 1904.09751), and so
    do ties with the last that stays.

    Args:
        logits: `[..., V]`.
        sort: sort the whole vocabulary. Otherwise only `_upper` part of it: what the nucleus
            then holds is the same, as long as it ends above everything that was left out.

    Returns:
        `(logits [..., V], complete [...])`, and for which rows they can be relied on.
    """
    upper, bound = (logits, -mx.inf) if sort else _upper(logits, BLOCKS)
    falling = -mx.sort(-upper, axis=-1)
    probs = mx.exp(falling - mx.logsumexp(logits, axis=-1, keepdims=True))
    behind = (mx.cumsum(probs, axis=-1, inclusive=False) > top_p) & (mx.arange(probs.shape[-1]) > 0)
    last = mx.where(behind, mx.inf, falling).min(axis=-1, keepdims=True)
    complete = behind.any(axis=-1) & (last > bound)[..., 0] if not sort else mx.ones(logits.shape[:-1], dtype=mx.bool_)
    return mx.where(logits < last, -mx.inf, logits), complete


def keep_top_k(logits: mx.array, top_k: int) -> mx.array:
    """Forbid every token below the k-th largest logit; ties with it stay."""
    k = min(top_k, logits.shape[-1])
    upper, _ = _upper(logits, k)  # the k best stand in the k best blocks
    kth = mx.sort(upper, axis=-1)[..., -k][..., None]
    return mx.where(logits < kth, -mx.inf, logits)


BLOCK = 16
BLOCKS = 512


def _upper(logits: mx.array, blocks: int) -> tuple[mx.array, mx.array]:
    """The `blocks` blocks of `BLOCK` neighbouring logits that reach highest, and a bound on the others.

    A sort of 152,064 logits is most of what sampling would cost; this looks at each once and sorts
    one in `BLOCK`. Whatever is larger than the bound is in what is returned.

    Returns:
        `([..., n], [..., 1])`, n the whole vocabulary, padded, where it has no more blocks.
    """
    fill = -logits.shape[-1] % BLOCK
    padded = mx.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, fill)], constant_values=-mx.inf) if fill else logits
    grid = padded.reshape(*logits.shape[:-1], -1, BLOCK)
    if grid.shape[-2] <= blocks:
        return padded, mx.full((*logits.shape[:-1], 1), -mx.inf)
    heights = grid.max(axis=-1)  # [..., V / BLOCK]
    best = mx.argsort(-heights, axis=-1)[..., :blocks]
    chosen = mx.take_along_axis(grid, best[..., None], axis=-2)
    bound = mx.take_along_axis(heights, best[..., -1:], axis=-1)
    return chosen.reshape(*logits.shape[:-1], -1), bound


def probability(probs: mx.array, tokens: mx.array) -> mx.array:
    """Of `tokens` `[...]`, given `probs` `[..., V]`."""
    return mx.take_along_axis(probs, tokens[..., None], axis=-1)[..., 0]


def score_maskgit_plus(probs: mx.array, tokens: mx.array, key: mx.array) -> mx.array:
    """The probability of the chosen token (MaskGIT, arXiv 2202.04200)."""
    return probability(probs, tokens)


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
