"""Text generation: from prompts to ids, canvases, streams of steps, and answers."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import mlx.core as mx
import numpy as np

from .config import GenerationConfig
from .decoding.block_reference import block_reference_decode
from .decoding.canvas import Canvas, count_up_to_end, final_tokens, text_before
from .decoding.extent import check_memory
from .decoding.loop import denoise
from .decoding.overflow import in_range
from .decoding.reference import Hooks, reference_decode, reference_rule
from .decoding.resizing import resizing_canvas, runs_of
from .decoding.result import Step
from .decoding.rules import rule_for
from .decoding.windows import window_for
from .device import synchronized
from .errors import ContextError, PromptError
from .forbidden import forbidden_ids
from .models.transformer import DiffusionModel
from .tokenizer import Tokenizer
from .trace.writer import traced

Prompt = str | Sequence[int]
"""Text, which goes through the chat template unless the configuration says raw; or token ids, used unchanged."""


@dataclass(frozen=True)
class Answer:
    """The part of an answer that can no longer change.

    Attributes:
        text: the final text: up to the first mask, end token or text of `until`. It starts with the prefill.
        ids: its tokens, without the prefill's.
        ended: whether an end token or a text of `until` ended it.
        useful_tokens: the tokens up to and with the end token; masks and padding do not count.
        unresolved_masks: the masks before the end token.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    useful_tokens: int = 0
    unresolved_masks: int = 0

    @classmethod
    def of(cls, tokenizer: Tokenizer, step: Step, start: int, config: GenerationConfig | None = None) -> Self:
        """The answer on a step's canvas. `start` is the length of its prompt, with the prefill of `config`."""
        config = config or GenerationConfig()
        answer = step.tokens[start:]
        ends = ends_of(tokenizer, config)
        ids, ended = final_tokens(answer, tokenizer.mask_id, ends)
        useful, masks = count_up_to_end(answer, tokenizer.mask_id, ends)
        text, kept = text_before(config.until, config.prefill, ids.tolist(), tokenizer.decode)
        if kept is None:
            return cls(text, ids.tolist(), ended, useful, masks)
        return cls(text, ids[:kept].tolist(), True, kept, 0)

    def final_text(self, until: Sequence[str]) -> str:
        """The text without an end that may become part of another character or of a text of `until`."""
        if self.ended:
            return self.text
        text = self.text.rstrip("\ufffd")
        held = (size for one in until for size in range(1, len(one)) if text.endswith(one[:size]))
        return text[: len(text) - max(held, default=0)]


def generate(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    config: GenerationConfig | None = None,
    *,
    hooks: Hooks | None = None,
) -> str:
    """Denoise an answer to `prompt` and return its text. Raises as `stream_generate`."""
    return generate_batch(model, tokenizer, [prompt], config, hooks=hooks)[0]


def stream_generate(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    config: GenerationConfig | None = None,
    *,
    hooks: Hooks | None = None,
) -> Iterator[Step]:
    """Denoise an answer to `prompt` and yield every step.

    Args:
        model: from `load`, and `tokenizer` with it.
        prompt: text or token ids. Mask tokens among the ids are denoised like the answer's.
        config: how to decode; None for `GenerationConfig()`.
        hooks: functions that are called around each step, like the reference's.

    Raises:
        PromptError: the prompt is empty, is not text, or does not fit the model's context. The call itself raises,
            before you ask for the first step.
        ConfigError: the configuration does not fit the model or the hooks.
    """
    steps = stream_batch(model, tokenizer, [prompt], config, hooks=hooks)
    return (rows[0] for rows in steps)


def stream_traced(
    model: DiffusionModel, tokenizer: Tokenizer, prompt: Prompt, config: GenerationConfig, trace: tuple[Path, str] | None
) -> Generator[Step, None, None]:
    """`stream_generate`, with every step written into a trace.

    Args:
        trace: the trace's file and the model's name in it; None for no trace.

    Raises:
        PromptError: as `stream_generate`.
        TraceError: as `trace.writer.traced`.
    """
    ids = prompt_ids(model, tokenizer, prompt, config)
    config = config.for_model(model).within(tokens_left(model, tokenizer, ids))
    steps = stream_generate(model, tokenizer, ids, config)
    if trace is None:
        return (step for step in steps)
    path, name = trace
    return traced(path, steps, canvas_of(tokenizer, ids, config), tokenizer, config, name)


def generate_batch(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    config: GenerationConfig | None = None,
    *,
    hooks: Hooks | None = None,
) -> list[str]:
    """Denoise the answers to several prompts together. Raises as `stream_generate`."""
    config = config or GenerationConfig()
    ids = _ids_of(model, tokenizer, prompts, config)
    *_, last = stream_batch(model, tokenizer, ids, config, hooks=hooks)
    # The masks of a prompt are holes for a model that changes their length; the answer begins with the first.
    starts = [own.index(tokenizer.mask_id) if tokenizer.sizes and tokenizer.mask_id in own else len(own) for own in ids]
    return [Answer.of(tokenizer, step, start, config).text for step, start in zip(last, starts, strict=True)]


def stream_batch(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    config: GenerationConfig | None = None,
    *,
    hooks: Hooks | None = None,
) -> Iterator[tuple[Step, ...]]:
    """`stream_generate` for several prompts in one batch: it yields a `Step` for each prompt.

    An answer in a batch is that of its prompt alone. Only of equal prompts each draws its own random numbers. An answer that
    is finished takes part in no more forwards, and its step stays as it is.
    """
    config = (config or GenerationConfig()).for_model(model)
    ids = _ids_of(model, tokenizer, prompts, config)
    config = config.within(min(tokens_left(model, tokenizer, one) for one in ids))
    window = window_for(config)
    window.check(model)
    resizes = tokenizer.sizes is not None
    if hooks:
        hooks.check(model, config, resizes=resizes)
    check_memory(model, len(ids), max(map(len, ids)), config.max_tokens, window, plain=config.reference or bool(hooks))
    canvases = [canvas_of(tokenizer, one, config) for one in ids]
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size, config.ban_tokens, resizes=resizes)

    def stop(step: Step) -> bool:
        return bool(config.until) and Answer.of(tokenizer, step, len(step.tokens) - config.max_tokens, config).ended

    def steps() -> Iterator[tuple[Step, ...]]:
        with synchronized():
            yield from in_range(model, partial(decode, model, canvases, config, forbidden, hooks, stop))

    return steps()


def _ids_of(model: DiffusionModel, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerationConfig) -> list[list[int]]:
    if isinstance(prompts, str | bytes) or not len(prompts):
        raise PromptError("the batch must be a list of prompts, at least one")
    return [prompt_ids(model, tokenizer, prompt, config) for prompt in prompts]


def decode(
    model: DiffusionModel,
    canvases: Sequence[Canvas],
    config: GenerationConfig,
    forbidden: mx.array,
    hooks: Hooks | None = None,
    stop: Callable[[Step], bool] | None = None,
) -> Iterator[tuple[Step, ...]]:
    """Denoise canvases: with the plain reference decoder for `config.reference` or hooks, else with the fast loop.

    Args:
        forbidden: bool `[V]`, ids never to be chosen; the reference chooses them all the same.
        stop: as in `Batch.add`; the reference takes all its steps all the same.
    """
    allowed = None if config.reference else forbidden
    if canvases[0].sizes:
        return denoise(model, canvases, rule_for(config), window_for(config), config, forbidden=allowed)
    if config.reference or hooks:
        if config.reference and model.config.block_length:
            return block_reference_decode(model, canvases, config)
        if hooks or config.rule == "schedule":
            return reference_decode(model, canvases, reference_rule(config), config, forbidden=allowed, hooks=hooks)
    return denoise(model, canvases, rule_for(config), window_for(config), config, forbidden=allowed, stop=stop)


def canvas_of(tokenizer: Tokenizer, prompt: Sequence[int], config: GenerationConfig) -> Canvas:
    """The canvas of a prompt from `prompt_ids`, with `max_tokens` masks after it.

    For a model that changes the length of its holes the prompt's own masks are the holes; without one, a few masks follow it.
    """
    ends = ends_of(tokenizer, config)
    ids = {"mask_id": tokenizer.mask_id, "pad_id": tokenizer.pad_id}
    if tokenizer.sizes:
        return resizing_canvas(prompt, config.max_tokens, tokenizer.sizes, **ids, end_ids=ends)
    return Canvas.of(prompt, config.max_tokens, **ids, end_ids=ends)


def ends_of(tokenizer: Tokenizer, config: GenerationConfig) -> frozenset[int]:
    """The ids at which an answer ends: those of the configuration, or else the checkpoint's."""
    return tokenizer.end_ids if config.end_ids is None else frozenset(config.end_ids)


def prompt_ids(model: DiffusionModel, tokenizer: Tokenizer, prompt: Prompt, config: GenerationConfig) -> list[int]:
    """The ids of a prompt, with those of the prefill if it is text.

    Raises:
        PromptError: the prompt is empty, is not text, has ids that the model does not have, or leaves too little context.
    """
    context = model.config.max_position_embeddings
    if not isinstance(prompt, str):
        ids = _token_ids(prompt, model.config.vocab_size)
    elif not prompt.strip():
        raise PromptError("the prompt is empty: say what code to write")
    else:
        tokenizer.check_length(prompt, context)
        ids = tokenizer.encode(prompt) if config.raw else tokenizer.encode_chat(prompt, system=config.system)
        ids = ids + tokenizer.encode_plain(config.prefill)
    if not ids:
        raise PromptError("the prompt is empty: say what code to write")
    if (left := tokens_left(model, tokenizer, ids)) < 1:
        raise ContextError(f"the prompt is {len(ids)} tokens long, but the model's context is {context}; shorten the prompt")
    if config.within(left).max_tokens > left:
        taken = len(ids) - ids.count(tokenizer.mask_id) if tokenizer.sizes else len(ids)
        raise ContextError(
            f"max_tokens {config.max_tokens} does not fit: the model's context is {context} tokens and"
            f" the prompt takes {taken} of them, so at most {left} are left{' for each hole' if tokenizer.sizes else ''}",
            field="max_tokens",
        )
    return ids


def tokens_left(model: DiffusionModel, tokenizer: Tokenizer, ids: list[int]) -> int:
    """The largest `max_tokens` that fits the model's context after a prompt, or in each hole where their lengths change."""
    left = model.config.max_position_embeddings - len(ids)
    if tokenizer.sizes is None:
        return left
    holes = len(runs_of(np.array(ids) == tokenizer.mask_id))
    return (left + ids.count(tokenizer.mask_id)) // holes if holes else left - 1  # without a hole an end token is added


def _token_ids(prompt: Sequence[int], vocab_size: int) -> list[int]:
    ids = np.asarray(prompt) if not isinstance(prompt, bytes) else np.empty((0, 0))
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise PromptError("the prompt must be text or a list of token ids")
    if wrong := [int(token) for token in ids if not 0 <= token < vocab_size]:
        raise PromptError(f"the prompt holds the id {wrong[0]}; the model's ids go from 0 to {vocab_size - 1}")
    return [int(token) for token in ids]
