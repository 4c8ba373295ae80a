"""A text with holes, ready to be denoised with holes of any lengths, and scores for what was written into them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..config import GenerationConfig
from ..decoding.batch import forward_together
from ..decoding.canvas import Canvas, final_tokens
from ..decoding.extent import check_memory
from ..decoding.hole_layout import HoleLayout
from ..decoding.likelihood import every_second, log_probabilities
from ..decoding.loop import denoise
from ..decoding.overflow import in_range
from ..decoding.resizing import START
from ..decoding.result import after_step
from ..decoding.rules import rule_for
from ..decoding.windows import window_for
from ..decoding.windows.sliding import Sliding
from ..decoding.windows.whole import Whole
from ..errors import ContextError, PromptError
from ..forbidden import forbidden_ids
from ..generation import ends_of
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from ..trace.writer import TraceWriter
from .context import context_of
from .shared_text import SharedSliding, SharedText

FOLLOWING = 4
"""Tokens after a hole whose probability is part of a text's score."""
BATCH = 12
"""Canvases that are scored in one forward."""


class Attempt(NamedTuple):
    """The texts of one denoised canvas.

    Attributes:
        ids: the tokens of each hole, without an end token.
        ended: for each hole, whether the model ended its text with an end token.
        number: the canvas, counted from 1 in the order in which they were denoised.
    """

    ids: list[list[int]]
    ended: list[bool]
    number: int

    @property
    def key(self) -> tuple[tuple[int, ...], ...]:
        """Equal for attempts with equal texts."""
        return tuple(map(tuple, self.ids))


class InfillTask:
    """A text with holes and all that is needed to denoise it.

    Args:
        texts: the texts around the holes, one more than there are holes.
        lengths: tokens of each hole; None where it is not given.
        instruction: a message before the text.
        budget: the most tokens of the text to show on each side of a hole.
        trace: records the steps of every canvas.

    Attributes:
        lengths: as given.
        config: how to decode; `max_tokens` is the longest hole.
        resizes: whether the model changes the lengths of the holes while it fills them: none is given, and it can.
        tried: canvases denoised so far.
        nfe, positions: forwards so far, those for scores included, and the positions forwarded in them.
        rows: as in `decoding.result.Step`, of the same forwards.

    Raises:
        PromptError: there is neither text nor instruction, or they and the holes do not fit the model's context.
    """

    def __init__(
        self,
        model: DiffusionModel,
        tokenizer: Tokenizer,
        texts: list[str],
        lengths: list[int | None],
        config: GenerationConfig,
        instruction: str | None,
        budget: int,
        trace: TraceWriter | None,
    ):
        self.resizes = tokenizer.sizes is not None and set(lengths) == {None}
        config = config.for_model(model)
        window_for(config).check(model)
        self.model, self.tokenizer, self.config, self.lengths, self.trace = model, tokenizer, config, lengths, trace
        self.prompt: list[int] = []
        if instruction is not None:
            tokenizer.check_length(instruction, model.config.max_position_embeddings)
            encoded = tokenizer.encode(instruction) if config.raw else tokenizer.encode_chat(instruction, system=config.system)
            self.prompt = encoded
        elif not any(text.strip() for text in texts):
            raise PromptError(
                "instruction is needed: there is no text around the hole, so say what to write", field="instruction"
            )
        begin = [] if tokenizer.sizes is None or self.prompt else tokenizer.sizes.begin
        left = self._tokens_left(len(begin))
        self.context = context_of(tokenizer, texts, min(budget, left // (2 * len(lengths))))
        first, *others = self.context.ids
        end = tokenizer.end_id(chat=instruction is not None and not config.raw) if self.context.shows_end else None
        self.texts = [begin + self.prompt + first, *others]
        self.texts[-1] = self.texts[-1] + ([] if end is None else [end])
        self.forbidden = forbidden_ids(tokenizer, model.config.vocab_size, config.ban_tokens)
        self.ends = ends_of(tokenizer, config)
        self.no_end = self.forbidden | from_numpy(np.isin(np.arange(model.config.vocab_size), list(self.ends)))
        self.text = SharedText(model, list(map(len, self.texts)))
        self.nfe = self.positions = self.tried = 0
        self.rows: tuple[int, ...] = ()

    def _tokens_left(self, begin: int) -> int:
        """Tokens of the model's context that are left for the text around the holes, at their longest, after `begin`."""
        holes = sum(length or self.config.max_tokens for length in self.lengths)
        limit = self.model.config.max_position_embeddings
        left = limit - len(self.prompt) - begin - holes - 1
        if left < 0:
            what = f"a hole of {holes} tokens does" if len(self.lengths) == 1 else f"holes of {holes} tokens do"
            raise ContextError(
                f"{what} not fit: the model's context is {limit} tokens and the instruction takes {len(self.prompt)} of them,"
                f" so at most {max(0, left + holes)} are left"
            )
        return left

    def attempts(self, lengths: Sequence[Sequence[int]], *, exact: bool) -> list[Attempt]:
        """Denoise one canvas for each row of hole lengths, in one batch.

        Args:
            lengths: for each canvas the tokens of its holes.
            exact: whether every hole is filled to its last token; otherwise the model may end a text earlier.
        """
        canvases = [self.canvas(one) for one in lengths]
        rule, window = rule_for(self.config), window_for(self.config)
        if isinstance(window, Sliding):
            window = SharedSliding(window.width, window.suffix, window.refresh, self.text)
        longest = max(map(sum, lengths))
        check_memory(self.model, len(lengths), sum(map(len, self.texts)), longest, window)
        forbidden = self.no_end if exact else self.forbidden
        decode = partial(denoise, self.model, canvases, rule, window, self.config, forbidden=forbidden)
        steps = in_range(self.model, decode)
        if self.trace:
            steps = self.trace.batch(canvases, steps, HoleLayout(len(self.prompt), self.context.leads, self.context.tails))
        *_, last = steps
        first, self.tried = self.tried + 1, self.tried + len(lengths)
        rows = max((step.rows for step in last), key=len)
        positions = sum(step.positions for step in last)
        self.nfe, self.positions = self.nfe + len(rows), self.positions + positions
        self.rows += (positions - sum(rows[1:]), *rows[1:]) if self.rows else rows
        every = enumerate(zip(last, canvases, strict=True), start=first)
        return [self.attempt(step.tokens, canvas.holes, number) for number, (step, canvas) in every]

    def resized(self) -> Attempt:
        """Denoise one canvas whose holes get their lengths from the model, each at most `max_tokens`."""
        sizes, lengths = self.tokenizer.sizes, [min(START, self.config.max_tokens)] * len(self.lengths)
        if sizes is None:
            raise ValueError("the model does not change the length of a hole")
        canvas = replace(self.canvas(lengths), sizes=sizes)
        check_memory(self.model, 1, sum(map(len, self.texts)), len(lengths) * self.config.max_tokens, Whole())
        rule, window, forbidden = rule_for(self.config), window_for(self.config), self.resizing_forbidden
        decode = partial(denoise, self.model, [canvas], rule, window, self.config, forbidden=forbidden)
        steps = in_range(self.model, decode)
        if self.trace:
            steps = self.trace.batch([canvas], steps, HoleLayout(len(self.prompt), self.context.leads, self.context.tails))
        holes = canvas.holes
        for (step,) in steps:
            holes = after_step(holes, step.deleted, step.expanded)
        self.tried, self.nfe, self.positions = self.tried + 1, self.nfe + step.nfe, self.positions + step.positions
        self.rows += step.rows
        return self.attempt(step.tokens, holes, self.tried)

    def canvas(self, lengths: Sequence[int]) -> Canvas:
        """The canvas whose holes have these lengths."""
        mask, pad = self.tokenizer.mask_id, self.tokenizer.pad_id
        return Canvas.around(self.texts, lengths, mask_id=mask, pad_id=pad, end_ids=self.ends)

    @property
    def resizing_forbidden(self) -> mx.array:
        """As `forbidden`, for a canvas whose holes change their lengths."""
        return forbidden_ids(self.tokenizer, self.model.config.vocab_size, self.config.ban_tokens, resizes=True)

    def attempt(self, tokens: NDArray[np.int32], holes: NDArray[np.int32], number: int) -> Attempt:
        """The texts on a canvas, int32 `[L]`, whose holes are at `holes`, int32 `[H, 2]`."""
        found = [final_tokens(tokens[start:stop], self.tokenizer.mask_id, self.ends) for start, stop in holes]
        return Attempt([ids.tolist() for ids, _ in found], [ended for _, ended in found], number)

    def following_scores(self, attempts: Sequence[Attempt]) -> list[list[float]]:
        """For each attempt and hole the mean log-probability of the first tokens after the hole, all of them masked."""
        placed = [self._positions(one) for one in attempts]
        masks = [[np.concatenate(following)] for _, _, following in placed]
        found = self._log_probabilities(attempts, masks)
        scores = []
        for (_, _, following), (values,) in zip(placed, found, strict=True):
            parts = np.split(values, np.cumsum([len(one) for one in following])[:-1])
            scores.append([float(part.mean()) if len(part) else 0.0 for part in parts])
        return scores

    def length_scores(self, lengths: Sequence[Sequence[int]]) -> list[list[float]]:
        """`following_scores` for rows of hole lengths, while the holes are masks.

        One forward for each `BATCH` rows, and one before that forwards all of the text.
        """
        if len(lengths) > 1 and not self.text.known:
            return self.length_scores(lengths[:1]) + self.length_scores(lengths[1:])
        masks = [[[self.tokenizer.mask_id] * length for length in row] for row in lengths]
        return self.following_scores([Attempt(row, [False] * len(row), 0) for row in masks])

    def scores(self, attempts: Sequence[Attempt]) -> list[list[float]]:
        """For each attempt and hole the mean log-probability of its tokens, every second one masked, and of those after it."""
        placed = [self._positions(one) for one in attempts]
        masks = [[*every_second(np.concatenate(inside)), np.concatenate(following)] for _, inside, following in placed]
        scores = []
        for (_, inside, following), mask, values in zip(placed, masks, self._log_probabilities(attempts, masks), strict=True):
            at, found = np.concatenate(mask), np.concatenate(values)
            parts = [found[np.isin(at, np.concatenate(hole))] for hole in zip(inside, following, strict=True)]
            scores.append([float(part.mean()) if len(part) else 0.0 for part in parts])
        return scores

    def token_scores(self, ids: list[int]) -> NDArray[np.float32]:
        """The log-probability of each token in the only hole, it and every second other one masked; float32 `[n]`.

        The first token of all is not scored: nothing predicts it.
        """
        one = Attempt([ids], [False], 0)
        masks = every_second(np.concatenate(self._positions(one)[1]))
        values = np.zeros(len(ids), dtype=np.float32)
        for mask, found in zip(masks, self._log_probabilities([one], [masks])[0], strict=True):
            values[mask - len(self.texts[0])] = found
        return values

    def _log_probabilities(
        self, attempts: Sequence[Attempt], masks: Sequence[list[NDArray[np.int64]]]
    ) -> list[list[NDArray[np.float32]]]:
        """For each text and each of its masks the log-probabilities of the masked tokens; `BATCH` canvases in a forward."""
        canvases = [(one, mask) for one, own in zip(attempts, masks, strict=True) for mask in own]
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(canvases), BATCH):
            parts, rows = [], []
            for attempt, mask in canvases[start : start + BATCH]:
                ids = np.array(self._positions(attempt)[0], dtype=np.int32)
                masked = ids.copy()
                masked[mask] = self.tokenizer.mask_id
                part, at = self.text.part(masked, [len(hole) for hole in attempt.ids])
                parts.append(part)
                rows.append((ids[at], np.searchsorted(at, mask)))
            hidden = forward_together(self.model, parts)
            found += [log_probabilities(self.model, one, *row, self.forbidden) for one, row in zip(hidden, rows, strict=True)]
            forwarded = sum(part.tokens.size for part in parts)
            self.nfe, self.positions = self.nfe + 1, self.positions + forwarded
            self.rows += (forwarded - (0 if self.rows else sum(map(len, self.texts))),)
        values = iter(found)
        return [[next(values) for _ in own] for own in masks]

    def _positions(self, attempt: Attempt) -> tuple[list[int], list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """The text with its holes filled; for each hole the positions in it, and the first ones after it."""
        ids, inside, following = list(self.texts[0]), [], []
        for hole, text in zip(attempt.ids, self.texts[1:], strict=True):
            stop = len(ids) + len(hole)
            inside.append(np.arange(max(len(ids), 1), stop))
            following.append(np.arange(max(stop, 1), stop + min(FOLLOWING, len(text))))
            ids += [*hole, *text]
        return ids, inside, following
