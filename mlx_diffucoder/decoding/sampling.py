"""From logits to a token and a score at every position.

All functions are pure, work on the last axis, and compute in float32 whatever the model's dtype. Shapes: V ids in
the vocabulary; `...` stands for any leading axes.
Source: `sample_tokens` of the reference decoder (Dream, arXiv 2508.15487; DiffuCoder, arXiv 2506.20639).
"""

import secrets
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..config import GenerationConfig

Score = Callable[[mx.array, mx.array, mx.array], mx.array]
"""`(probs [..., V], tokens [...], key) -> [...]`; tokens with larger scores are committed first."""


class Measurements(NamedTuple):
    """What `measure` finds at each position, `[...]`; `rules.base.Candidates` describes the fields.

    Attributes:
        complete: bool, False where a nucleus cut without a full sort cannot be relied on.
        best, best_probs: `[..., 2]`, the two most probable tokens and their probabilities; None unless asked for.
    """

    chosen: mx.array
    scores: mx.array
    confidence: mx.array
    entropy: mx.array
    complete: mx.array
    best: mx.array | None
    best_probs: mx.array | None


def random_sources(seed: int | None, copy: int = 0) -> tuple[mx.array, np.random.Generator]:
    """MLX's key and NumPy's generator for one run.

    Args:
        seed: None takes a fresh one.
        copy: how many runs of the same seed and canvas come before this one; each draws its own.
    """
    seed = seed_of_copy(secrets.randbits(64) if seed is None else seed, copy)
    return mx.random.key(seed), np.random.default_rng(seed)


def seed_of_copy(seed: int, copy: int) -> int:
    """The seed with which a run alone draws what the given copy draws; `copy` as in `random_sources`."""
    return int(np.random.SeedSequence((seed, copy)).generate_state(1, np.uint64)[0]) if copy else seed


def measure(
    logits: mx.array,
    config: GenerationConfig,
    key: mx.array,
    *,
    needs_best: bool = False,
    sort: bool = True,
) -> Measurements:
    """Choose a token at every position and measure how sure it is.

    Args:
        logits: `[..., V]`.
        config: how tokens are drawn and scored.
        key: for the draws.
        needs_best: return the two most probable tokens too.
        sort: as in `keep_top_p`.
    """
    draw_key, score_key = mx.random.split(key)
    chosen, probs, complete = draw(logits, config, draw_key, sort=sort)
    negative_entropy = score_entropy(probs, chosen, score_key)
    best = two_best(probs) if needs_best else None
    return Measurements(
        chosen=chosen,
        scores=negative_entropy if config.alg == "entropy" else SCORES[config.alg](probs, chosen, score_key),
        confidence=probability(probs, chosen),
        entropy=-negative_entropy,
        complete=complete,
        best=best,
        best_probs=None if best is None else mx.take_along_axis(probs, best, axis=-1),
    )


def draw(logits: mx.array, config: GenerationConfig, key: mx.array, *, sort: bool = True) -> tuple[mx.array, mx.array, mx.array]:
    """Choose a token at every position.

    Args:
        logits: `[..., V]`; minus infinity forbids an id.
        config: `temperature`, `top_p` and `top_k`, applied in this order. At temperature 0 the
            truncation still shapes the probabilities, and with them the scores.
        key: for the random draw; not used at temperature 0.
        sort: as in `keep_top_p`.

    Returns:
        `(tokens [...], probs [..., V], complete [...])`: the probabilities, truncated and
        renormalised; and whether the nucleus is complete, which can be False only with `sort=False`.
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
    """Forbid the tokens outside the nucleus, whose cumulative probability is `top_p` (arXiv 1904.09751).

    The token that crosses `top_p` stays, the best one always stays, and so do tokens equal to the last that stays.

    Args:
        logits: `[..., V]`.
        sort: sort the whole vocabulary. Otherwise sort only the part of it that `_upper` gives: the nucleus is
            the same as long as it ends above everything that was left out.

    Returns:
        `(logits [..., V], complete [...])`; False in `complete` where the nucleus may not end inside the sorted part.
    """
    upper, bound = (logits, -mx.inf) if sort else _upper(logits, BLOCKS)
    falling = -mx.sort(-upper, axis=-1)
    probs = mx.exp(falling - mx.logsumexp(logits, axis=-1, keepdims=True))
    outside = mx.cumsum(probs, axis=-1, inclusive=False) > top_p  # never the best: nothing comes before it
    last = mx.where(outside, mx.inf, falling).min(axis=-1, keepdims=True)
    complete = outside.any(axis=-1) & (last > bound)[..., 0] if not sort else mx.ones(logits.shape[:-1], dtype=mx.bool_)
    return mx.where(logits < last, -mx.inf, logits), complete


def keep_top_k(logits: mx.array, top_k: int) -> mx.array:
    """Forbid every token of `logits` `[..., V]` below the k-th largest; tokens equal to it stay."""
    k = min(top_k, logits.shape[-1])
    upper, _ = _upper(logits, k)  # the k best are in the k best blocks
    kth = mx.sort(upper, axis=-1)[..., -k][..., None]
    return mx.where(logits < kth, -mx.inf, logits)


BLOCK = 16
BLOCKS = 512


def _upper(logits: mx.array, blocks: int) -> tuple[mx.array, mx.array]:
    """The `blocks` blocks of `BLOCK` neighbouring logits with the largest maxima, and a bound on the others.

    Sorting 152,064 logits would take most of the time of sampling; this reads each logit once and sorts
    one value for every `BLOCK`. Every logit above the bound is in a returned block.

    Returns:
        `(logits [..., n], bound [..., 1])`; the whole vocabulary, padded, where it has at most `blocks` blocks.
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


def two_best(probs: mx.array) -> mx.array:
    """The two most probable ids of `probs` `[..., V]`, the best first; `[..., 2]`. No sort: V is large."""
    first = mx.argmax(probs, axis=-1, keepdims=True)
    second = mx.argmax(mx.put_along_axis(probs, first, mx.array(-1.0), axis=-1), axis=-1, keepdims=True)
    return mx.concatenate([first, second], axis=-1)


def probability(probs: mx.array, tokens: mx.array) -> mx.array:
    """The probability of `tokens` `[...]` in `probs` `[..., V]`; `[...]`."""
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
"""The scores by the name `GenerationConfig.alg` gives them."""
