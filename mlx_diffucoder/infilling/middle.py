"""Holes for a model that sees no text after them: the text after a hole stands before it, in the prompt.

That is fill in the middle (arXiv 2207.14255), which autoregressive models learn; a block-causal model that began as one may
know it, if its tokenizer has the tokens for it. Holes are filled one after another, from left to right.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..arrays import from_numpy
from ..config import GenerationConfig
from ..decoding.hole_layout import unwrapped
from ..decoding.likelihood import mean_log_probability
from ..decoding.overflow import in_range
from ..errors import ConfigError, PromptError
from ..forbidden import forbidden_ids
from ..generation import Answer, canvas_of, decode, ends_of, prompt_ids
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from ..trace.writer import TraceWriter
from .context import Context, context_of


class MiddlePrompt(NamedTuple):
    """A hole as a prompt: its ids, how to decode, bool `[V]` the ids never to be chosen, and the text that is shown."""

    ids: list[int]
    config: GenerationConfig
    forbidden: mx.array
    shown: Context


class Middle(NamedTuple):
    """The text of one hole, and what it took: tokens of the text shown, forwards, positions and rows as in `Filled`."""

    text: str
    answer: Answer
    score: float
    seen: int
    nfe: int
    positions: int
    rows: tuple[int, ...]


def fill_middles(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    lengths: Sequence[int | None],
    config: GenerationConfig,
    instruction: str | None,
    budget: int,
    trace: TraceWriter | None,
) -> dict[str, Any]:
    """Fill the holes between texts. The arguments are as for `InfillTask`.

    Returns:
        The fields of `Filled`. The score is of the tokens in the holes alone.

    Raises:
        PromptError: there is no text, or one does not fit the model's context with its hole.
        ConfigError: the tokenizer lacks the tokens, the configuration is not for the model, or there are an instruction or
            several holes to trace.
    """
    name = model.family.name
    if instruction is not None:
        raise ConfigError(f"{name} models fill a hole without an instruction; leave it out", field="instruction")
    if trace and len(lengths) > 1:
        raise ConfigError(f"trace holds one text, and {name} models fill one hole after another; trace one hole", field="trace")
    found = list[Middle]()
    for number, length in enumerate(lengths):
        before = "".join(text + hole for text, hole in zip(texts, [*(one.text for one in found), ""], strict=False))
        asked = middle_prompt(model, tokenizer, (before, texts[number + 1]), length, config, budget)
        found.append(_fill_one(model, tokenizer, asked, trace))
    if trace:
        trace.kept = 1
    return {
        "holes": [one.text for one in found],
        "score": float(np.mean([one.score for one in found])),
        "lengths": [len(one.answer.ids) for one in found],
        "tried": len(found),
        "kept": len(found),
        "agreed": all(one.answer.ended for one in found),
        **{name: sum(getattr(one, name) for one in found) for name in ("seen", "nfe", "positions")},
        "rows": sum((one.rows for one in found), ()),
        "useful_tokens": sum(one.answer.useful_tokens for one in found),
    }


def middle_prompt(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    around: tuple[str, str],
    length: int | None,
    config: GenerationConfig,
    budget: int,
) -> MiddlePrompt:
    """The hole between two texts as a prompt. With a length, no end token is allowed. Raises as `fill_middles`."""
    tokens = middle_tokens(model, tokenizer)
    if not tokens:
        model.family.refuse("infill")
    if not any(text.strip() for text in around):
        raise PromptError("there is no text around the hole: the model has nothing to go by")
    config = replace(config.for_model(model), max_tokens=length or config.max_tokens)
    shown = context_of(tokenizer, around, budget)
    parts = {"prefix": shown.ids[0], "suffix": shown.ids[1], "middle": list[int]()}
    ids = [id for text, token in tokens.items() for id in (token, *parts[text])]
    prompt_ids(model, tokenizer, ids, config)  # raises where they do not fit
    banned = {*tokens.values(), *(ends_of(tokenizer, config) if length else ())}
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size, config.ban_tokens)
    forbidden = forbidden | from_numpy(np.isin(np.arange(model.config.vocab_size), list(banned)))
    return MiddlePrompt(ids, config, forbidden, shown)


def _fill_one(model: DiffusionModel, tokenizer: Tokenizer, asked: MiddlePrompt, trace: TraceWriter | None) -> Middle:
    ids, config, forbidden, shown = asked
    canvas = canvas_of(tokenizer, ids, config)
    steps = in_range(model, partial(decode, model, [canvas], config, forbidden))
    *_, (last,) = trace.batch([canvas], steps) if trace else steps
    answer = Answer.of(tokenizer, last, len(ids), config)
    score, forwarded = mean_log_probability(model, [*ids, *answer.ids], len(ids), tokenizer.mask_id, forbidden)
    text = unwrapped(tokenizer.decode(answer.ids), shown.leads[0], shown.tails[0])
    seen = sum(map(len, shown.ids))
    return Middle(text, answer, score, seen, last.nfe + 1, last.positions + forwarded, (*last.rows, forwarded))


def middle_tokens(model: DiffusionModel, tokenizer: Tokenizer) -> dict[str, int]:
    """The family's tokens for it: their ids by the text that each stands before, in order; empty where one is missing."""
    vocabulary = tokenizer.vocabulary
    ids = {text: vocabulary[token] for text, token in model.family.middle.items() if token in vocabulary}
    return ids if len(ids) == len(model.family.middle) else {}
