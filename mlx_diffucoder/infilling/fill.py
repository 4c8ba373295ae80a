"""Holes in a text, filled together by a model that sees both sides of each.

How long a hole's text is, is found. Canvases with holes of several lengths are denoised side by side. A model
that was trained to infill says itself where a text ends, with the padding token, and says the same whatever room
it is given; where the canvases do not agree, holes of every small length are tried that must be filled to the
last token. The text is kept that the model finds the most probable, and what follows the hole with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..config import HOLES, GenerationConfig
from ..decoding.canvas import Canvas, final_tokens
from ..decoding.hole_layout import HoleLayout
from ..decoding.likelihood import every_second, log_probabilities
from ..decoding.loop import denoise
from ..decoding.rules import rule_for
from ..decoding.windows import window_for
from ..errors import ConfigError, PromptError
from ..generation import check_memory, forbidden_ids, wired_memory
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from ..trace.writer import Recording
from .context import Excerpt, Part, check_text, excerpt, texts_and_holes

CONTEXT = 512
"""Tokens shown on each side of a hole."""
TRIES = 3
EXACT = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64)
"""Lengths tried of a model that does not say where a hole's text ends."""
SIDE_BY_SIDE = 8  # canvases in a batch
FOLLOWING = 4  # tokens behind a hole that must be called for by what stands in it
FINAL = 4  # texts that are compared to the last token
AGREED = -1.0  # mean log-probability that a text needs to be taken at its canvases' word


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a model put into the holes of a text.

    Attributes:
        holes: the text of each.
        score: the mean log-probability of their tokens and of the first ones behind each, which tells by how much
            the model prefers one filling to another.
        lengths: tokens of each hole's text.
        tried: how many canvases were denoised.
        kept: which of them this is, counted from 1 in the order in which they were.
        agreed: whether the model said where the holes end.
        seen: tokens of the text around them that it was shown.
        nfe, positions: forwards, and the positions forwarded in them, those for the scores too.
        useful_tokens: tokens in the holes, up to and with the ends that the model gave them.
    """

    holes: list[str]
    score: float
    lengths: list[int]
    tried: int
    kept: int
    agreed: bool
    seen: int
    nfe: int
    positions: int
    useful_tokens: int


def infill(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    config: GenerationConfig | None = None,
    *,
    instruction: str | None = None,
) -> str:
    """What stands between `prefix` and `suffix`. Arguments and errors as `fill` has them."""
    return fill(model, tokenizer, [prefix, None, suffix], config, instruction=instruction).holes[0]


def fill(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    parts: Sequence[Part],
    config: GenerationConfig | None = None,
    *,
    instruction: str | None = None,
    context: int = CONTEXT,
    tries: int = TRIES,
    record: Recording | None = None,
) -> Filled:
    """Fill all holes of a text together.

    Args:
        model, tokenizer: as `load` returns them.
        parts: texts with holes between them, as in `["def f(x):\\n", None, "\\n"]`.
        config: how to decode; `max_tokens` is the longest hole. By default `GenerationConfig(**HOLES)`.
        instruction: what to write; it is put before the text as a chat's message (with `raw`, as it is).
        context: tokens of the text that are shown on each side of a hole.
        tries: in how many lengths, each half of the one before, a hole is tried before every small length is. With
            1 the model is taken at its word: nothing is compared, and nothing else tried.
        record: writes the steps of all canvases down, and which of them was kept.

    Raises:
        PromptError: the parts are no texts with holes between them; there is nothing to go by; a hole does
            not fit the model's context.
        ConfigError: the configuration is for answers.
    """
    config = config or GenerationConfig(**HOLES)
    check_settings(config, instruction, context, tries)
    texts, lengths = texts_and_holes(parts)
    if instruction is None:
        check_text(texts)
    job = _Job(model, tokenizer, texts, lengths, config, instruction, context, record)
    with wired_memory():
        filled = _fill(job, tries)
    if record:
        record.kept = filled.kept
    return filled


def check_settings(config: GenerationConfig, instruction: str | None, context: int, tries: int) -> None:
    """Raises `ConfigError` unless holes can be filled so."""
    if config.reference:
        raise ConfigError("reference is a decoder of answers: it cannot fill holes", field="reference")
    for field in ("prefill", "until"):
        if getattr(config, field):
            raise ConfigError(f"{field} is for answers: a hole has text around it", field=field)
    if config.system is not None and instruction is None:
        raise ConfigError("system goes with an instruction: without one there is no chat, only the text", field="system")
    if context < 0:
        raise ConfigError(f"context must be a whole number of 0 or more, not {context}", field="context")
    if tries < 1:
        raise ConfigError(f"tries must be a whole number of 1 or more, not {tries}", field="tries")


class _Attempt(NamedTuple):
    """The tokens put into each hole, whether the model ended each itself, and which of the canvases tried it is."""

    ids: list[list[int]]
    ended: list[bool]
    number: int

    @property
    def key(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(tuple, self.ids))


class _Job:
    """A text with holes, ready to be denoised at any lengths."""

    def __init__(
        self,
        model: DiffusionModel,
        tokenizer: Tokenizer,
        texts: list[str],
        holes: list[int | None],
        config: GenerationConfig,
        instruction: str | None,
        context: int,
        record: Recording | None,
    ):
        self.model, self.tokenizer, self.config, self.holes, self.record = model, tokenizer, config, holes, record
        self.prompt: list[int] = []
        if instruction is not None:
            encoded = tokenizer.encode(instruction) if config.raw else tokenizer.encode_chat(instruction, system=config.system)
            self.prompt = encoded
        longest = [hole or config.max_tokens for hole in holes]
        room = model.config.max_position_embeddings - len(self.prompt) - sum(longest) - 1
        if room < 0:
            raise PromptError(
                f"{'a hole' if len(holes) == 1 else 'holes'} of {sum(longest)} tokens {'does' if len(holes) == 1 else 'do'}"
                f" not fit: the model's context is {model.config.max_position_embeddings} tokens and the instruction takes"
                f" {len(self.prompt)} of them, so at most {max(0, room + sum(longest))} are left"
            )
        self.excerpt: Excerpt = excerpt(tokenizer, texts, min(context, room // (2 * len(holes))))
        first, *others = self.excerpt.ids
        end = tokenizer.end_id(chat=instruction is not None and not config.raw) if self.excerpt.ends else None
        self.texts = [self.prompt + first, *others]
        self.texts[-1] = self.texts[-1] + ([] if end is None else [end])
        self.forbidden = forbidden_ids(tokenizer, model.config.vocab_size, config.ban_tokens)
        self.no_end = self.forbidden | mx.array(np.isin(np.arange(model.config.vocab_size), list(tokenizer.end_ids)))
        self.nfe = self.positions = self.tried = 0

    def attempts(self, lengths: Sequence[Sequence[int]], *, exact: bool) -> list[_Attempt]:
        """Denoise canvases with holes of these lengths, side by side; `exact` ones are filled to the last token."""
        canvas = Canvas.around(
            [self.texts] * len(lengths),
            lengths,
            mask_id=self.tokenizer.mask_id,
            pad_id=self.tokenizer.pad_id,
            end_ids=self.tokenizer.end_ids,
        )
        rule, window = rule_for(self.config), window_for(self.config)
        most = max(map(sum, lengths))
        check_memory(self.model, len(lengths), canvas.tokens.shape[1] - most, most, window)
        forbidden = self.no_end if exact else self.forbidden
        steps = denoise(self.model, canvas, rule, window, self.config, forbidden=forbidden)
        if self.record:
            steps = self.record.batch(canvas, steps, HoleLayout(len(self.prompt), self.excerpt.leads, self.excerpt.tails))
        *_, last = steps
        first, self.tried = self.tried + 1, self.tried + len(lengths)
        self.nfe += last[0].nfe
        self.positions += len(lengths) * last[0].positions
        spans = canvas.holes - canvas.padding[:, None, None]
        rows = enumerate(zip(last, spans, strict=True), start=first)
        return [self._attempt(step.tokens, holes, number) for number, (step, holes) in rows]

    def _attempt(self, tokens: NDArray[np.int32], holes: NDArray[np.int32], number: int) -> _Attempt:
        special = {"mask_id": self.tokenizer.mask_id, "end_ids": self.tokenizer.end_ids}
        found = [final_tokens(tokens[start:stop], **special) for start, stop in holes]  # type: ignore[arg-type]
        return _Attempt([ids.tolist() for ids, _ in found], [ended for _, ended in found], number)

    def called_for(self, attempt: _Attempt) -> list[float]:
        """For each hole, how probable the tokens behind it are, all of them masked: the mean log-probability."""
        ids, _, behind = self._laid_out(attempt)
        (found,) = self._ask(ids, [np.concatenate(behind)])
        parts = np.split(found, np.cumsum([len(one) for one in behind])[:-1])
        return [float(part.mean()) if len(part) else 0.0 for part in parts]

    def score(self, attempt: _Attempt) -> float:
        """The mean log-probability of the tokens in the holes, every second one masked, and of those behind."""
        ids, inside, behind = self._laid_out(attempt)
        found = np.concatenate(self._ask(ids, [*every_second(np.concatenate(inside)), np.concatenate(behind)]))
        return float(found.mean()) if len(found) else 0.0

    def _ask(self, ids: list[int], masks: list[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        self.nfe, self.positions = self.nfe + 1, self.positions + len(masks) * len(ids)
        return log_probabilities(self.model, ids, masks, self.tokenizer.mask_id, self.forbidden)

    def _laid_out(self, attempt: _Attempt) -> tuple[list[int], list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """The text with its holes filled, the places in each hole, and the first ones behind each."""
        ids, inside, behind = list(self.texts[0]), [], []
        for hole, text in zip(attempt.ids, self.texts[1:], strict=True):
            stop = len(ids) + len(hole)
            inside.append(np.arange(max(len(ids), 1), stop))
            behind.append(np.arange(max(stop, 1), stop + min(FOLLOWING, len(text))))
            ids += [*hole, *text]
        return ids, inside, behind

    def filled(self, best: _Attempt, score: float, *, agreed: bool) -> Filled:
        lengths = [len(ids) for ids in best.ids]
        return Filled(
            holes=[self.excerpt.unwrap(place, self.tokenizer.decode(ids)) for place, ids in enumerate(best.ids)],
            score=score,
            lengths=lengths,
            tried=self.tried,
            kept=best.number,
            agreed=agreed,
            seen=len(self.excerpt),
            nfe=self.nfe,
            positions=self.positions,
            useful_tokens=sum(lengths) + sum(best.ended),
        )


def _fill(job: _Job, tries: int) -> Filled:
    given = [hole for hole in job.holes if hole is not None]
    if len(given) == len(job.holes):
        (only,) = job.attempts([given], exact=True)
        return job.filled(only, job.score(only), agreed=False)
    most = job.config.max_tokens
    lengths = dict.fromkeys(max(1, most >> halved) for halved in range(tries))
    said = job.attempts([_of_lengths(job, length) for length in lengths], exact=False)
    whole = (one for one in said if all(one.ended) and all(one.ids))
    agreed = next((one for one in whole if sum(other.key == one.key for other in said) > 1), None)
    if len(said) == 1:
        return job.filled(said[0], job.score(said[0]), agreed=all(said[0].ended))
    if agreed is not None and (score := job.score(agreed)) > AGREED:
        return job.filled(agreed, score, agreed=True)
    return _most_probable(job, [*said, *_of_every_length(job, most)])


def _most_probable(job: _Job, attempts: Sequence[_Attempt]) -> Filled:
    """What calls for the text behind it is compared to the last token."""
    different = list({one.key: one for one in attempts}.values())
    behind = [job.called_for(one) for one in different]
    order = np.argsort([-sum(one) for one in behind], kind="stable")
    last = [different[place] for place in order[:FINAL]]
    if len(job.holes) > 1:
        # Each hole at the length at which it alone did best.
        best = [different[int(np.argmax([one[hole] for one in behind]))] for hole in range(len(job.holes))]
        last += job.attempts([[max(1, len(one.ids[hole])) for hole, one in enumerate(best)]], exact=True)
    scores = [job.score(one) for one in last]
    return job.filled(last[int(np.argmax(scores))], max(scores), agreed=False)


def _of_lengths(job: _Job, length: int) -> list[int]:
    return [length if hole is None else hole for hole in job.holes]


def _of_every_length(job: _Job, most: int) -> Iterator[_Attempt]:
    lengths = [length for length in EXACT if length <= most]
    for start in range(0, len(lengths), SIDE_BY_SIDE):
        together = lengths[start : start + SIDE_BY_SIDE]
        yield from job.attempts([_of_lengths(job, length) for length in together], exact=True)
