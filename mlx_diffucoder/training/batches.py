"""Batches of canvases: which examples, how long, and where the holes are.

Everything about a batch follows from the seed and its number, so a run that goes on from a checkpoint
draws what an unbroken one would have drawn.

A canvas is one of two:

    answer    prompt + answer + end token + padding                              all behind the prompt is learnt
    infilling prompt + text + [span + padding] + text + … + end token + padding        the holes are learnt

In a hole, what the span leaves over is filled with the padding token (`Tokenizer.pad_id`): how long the text
is can be found, and need not be told. There are one to `HOLES` of them. The prompt of an infilling canvas is left away
for some, which is then code alone and ends as texts do (`Tokenizer.end_id`). Spans are cut where tokens end, half of the
time at the ends of lines.

Each token to be learnt is masked with a probability that is drawn for its canvas. Some answers are masked from a place on
instead, one of the answer's or where its padding begins. The padding behind some answers is masked with a probability of its
own: a decoder that commits the surest tokens first knows much of it before anything of the answer.

For the causal objective a canvas is prompt + answer + end token, and what fills the batch up to its longest is not learnt; for
the mixed one every second batch is so, with masks to fill it up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tokenizer import Tokenizer
from .data import Example
from .objective import LEAST_T, Noised, draw_masks, mask_from, timesteps

SORTED_TOGETHER = 32  # batches whose examples are sorted by length
MULTIPLE = 8  # of canvas lengths, so that few shapes are met
NO_PROMPT = 0.5  # share of the infilling canvases that are code alone
HOLES = 3  # at most on a canvas; one half of the time


@dataclass(frozen=True, eq=False)
class Canvases:
    """What a batch is made of.

    Attributes:
        tokens: int32 `[B, L]`, with nothing masked.
        learnt: bool `[B, L]`.
        answers: `[B]`, tokens of the answer, its end with them, where that is what is learnt; 0 where it is holes.
    """

    tokens: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    answers: Sequence[int]


Row = tuple[NDArray[np.int32], NDArray[np.bool_], int]
"""One of them: tokens `[L]`, which are learnt, and the answer's."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How batches are drawn.

    Attributes:
        size: examples a batch.
        max_length: of a canvas, the longest.
        infill: share of the examples that become holes.
        canvas: `random`: a length between the batch's longest example and `max_length`, most of them short (the sixth power
            of a uniform number, on a logarithmic scale); `longest`: the batch's longest example; `full`: `max_length`.
        seed: of all that is drawn.
        least_t: see `timesteps`.
        prefixes: share of the answers that are masked from a place on.
        padding: share of the answers whose padding is masked with a probability of its own.
        objective: `masked`, `causal` or `mixed`, see `objective.py`.
        smoothing: how much of a target is spread over all tokens, far behind what is shown.
    """

    size: int
    max_length: int
    infill: float = 0.0
    canvas: str = "random"
    seed: int = 0
    least_t: float = LEAST_T
    prefixes: float = 0.0
    padding: float = 0.0
    objective: str = "masked"
    smoothing: float = 0.0


class Batches:
    """The endless sequence of a run's batches, each known by its number."""

    def __init__(self, examples: Sequence[Example], tokenizer: Tokenizer, drawing: Drawing):
        self._examples, self._drawing = examples, drawing
        self._mask_id, self._pad_id = tokenizer.mask_id, tokenizer.pad_id
        self._end_id = tokenizer.end_id(chat=False)
        self._ends_line = _line_ends(tokenizer) if drawing.infill else np.zeros(0, dtype=bool)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def per_epoch(self) -> int:
        return batches_per_epoch(len(self._examples), self._drawing.size)

    def draw(self, number: int, together: int = 1) -> list[Noised]:
        """Batches number, number + 1, …: `together` of them, whose losses sum up to a mean over all their tokens.

        To one mean for each objective, where two are mixed.
        """
        drawn = [(self._causal(one), *self._canvases(one)) for one in range(number, number + together)]
        counts = {
            kind: max(1, sum(int(one.learnt.sum()) for causal, one, _ in drawn if causal == kind)) for kind in (True, False)
        }
        return [self._noised(one, rng, counts[causal], causal) for causal, one, rng in drawn]

    def _noised(self, canvases: Canvases, rng: np.random.Generator, count: int, causal: bool) -> Noised:
        tokens, learnt = canvases.tokens, canvases.learnt
        if self._drawing.objective == "causal":
            return Noised.left_to_right(tokens, learnt, count)
        if causal:
            return Noised.behind_prompts(tokens, learnt, self._mask_id, count)
        t = timesteps(rng, len(tokens), self._drawing.least_t)
        masked, weights = draw_masks(rng, learnt, t), np.broadcast_to(1 / t[:, None], tokens.shape).copy()
        length = tokens.shape[1]
        for row, answer in enumerate(canvases.answers):
            first = int(learnt[row].argmax())
            end = first + answer
            if answer and self._drawing.prefixes and rng.random() < self._drawing.prefixes:
                places = min(answer + 1, length - first)  # the answer's, and the first behind it
                masked[row], weights[row] = mask_from(first + int(rng.integers(places)), places, length)
            if answer and self._drawing.padding and rng.random() < self._drawing.padding:
                (own,) = timesteps(rng, 1, self._drawing.least_t)
                masked[row, end:], weights[row, end:] = rng.random(length - end) < own, 1 / own
        return Noised.of(tokens, masked, weights / count, self._mask_id, self._drawing.smoothing)

    def _causal(self, number: int) -> bool:
        return self._drawing.objective == "causal" or (self._drawing.objective == "mixed" and number % 2 == 1)

    def _canvases(self, number: int) -> tuple[Canvases, np.random.Generator]:
        epoch, place = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        chosen = [self._examples[index] for index in self._epoch[1][place]]
        rng = np.random.default_rng([self._drawing.seed, 1, number])
        causal = self._causal(number)
        length = self._length(rng, max(map(len, chosen)), causal)
        tokens, learnt, answers = zip(*(self._row(rng, example, length, causal) for example in chosen), strict=True)
        return Canvases(np.stack(tokens), np.stack(learnt), answers), rng

    def _order(self, epoch: int) -> list[list[int]]:
        """The examples of an epoch in batches of like lengths, in random order."""
        rng = np.random.default_rng([self._drawing.seed, 0, epoch])
        order, size = rng.permutation(len(self._examples)), self._drawing.size
        lengths = np.array([len(example) for example in self._examples])
        batches: list[list[int]] = []
        for start in range(0, len(order), size * SORTED_TOGETHER):
            group = order[start : start + size * SORTED_TOGETHER]
            group = group[np.argsort(lengths[group], kind="stable")]
            batches += [group[at : at + size].tolist() for at in range(0, len(group), size)]
        return [batches[index] for index in rng.permutation(len(batches))]

    def _length(self, rng: np.random.Generator, longest: int, causal: bool) -> int:
        most, drawn = self._drawing.max_length, rng.random()
        share = {"random": drawn**6, "longest": 0.0, "full": 1.0}["longest" if causal else self._drawing.canvas]
        length = longest * (most / longest) ** share
        return min(most, -(-int(length) // MULTIPLE) * MULTIPLE)

    def _row(self, rng: np.random.Generator, example: Example, length: int, causal: bool) -> Row:
        if rng.random() < self._drawing.infill and len(example.answer) > 2 and not causal:
            return self._with_holes(rng, example, length)
        tokens = np.full(length, self._pad_id, dtype=np.int32)
        tokens[: len(example)] = np.concatenate([example.prompt, example.answer])
        places = np.arange(length)
        learnt = (places >= len(example.prompt)) & (places < (len(example) if causal else length))
        return tokens, learnt, len(example.answer)

    def _with_holes(self, rng: np.random.Generator, example: Example, length: int) -> Row:
        text, end = example.answer[:-1], example.answer[-1:]
        asked = len(example.prompt) == 1 or rng.random() >= NO_PROMPT
        if not asked and self._end_id is not None:
            end = np.array([self._end_id], dtype=np.int32)
        before = example.prompt if asked else example.prompt[:0]
        # The shift: the first token of a canvas is predicted by none.
        spans = self._spans(rng, text, least=0 if len(before) else 1)
        room = rng.multinomial(rng.integers(length - len(before) - len(text)), np.full(len(spans), 1 / len(spans)))
        tokens, learnt = [before], [np.zeros(len(before), dtype=bool)]
        known = 0
        for (start, stop), more in zip(spans, room, strict=True):
            hole = np.concatenate([text[start:stop], np.full(more, self._pad_id, dtype=np.int32)])
            tokens += [text[known:start], hole]
            learnt += [np.zeros(start - known, dtype=bool), np.ones(len(hole), dtype=bool)]
            known = stop
        tokens += [text[known:], end]
        shown = np.concatenate(tokens)
        row = np.pad(shown, (0, length - len(shown)), constant_values=self._pad_id).astype(np.int32)
        found = np.concatenate(learnt)
        return row, np.pad(found, (0, length - len(found))), 0

    def _spans(self, rng: np.random.Generator, text: NDArray[np.int32], least: int = 0) -> list[tuple[int, int]]:
        """Where spans start and stop, with text between them: cut between any two tokens, or in whole lines.

        Args:
            least: where the first may start.
        """
        cuts = np.arange(least, len(text) + 1)
        if rng.random() < 0.5:
            inner = np.flatnonzero(self._ends_line[text[:-1]]) + 1
            cuts = np.unique([least, *inner[inner > least], len(text)])
        most = HOLES if rng.random() < 0.5 else 1
        count = int(rng.integers(1, min(most, len(cuts) // 2) + 1))
        chosen = np.sort(rng.choice(cuts, 2 * count, replace=False)).tolist()
        return list(zip(chosen[::2], chosen[1::2], strict=True))


def batches_per_epoch(examples: int, size: int) -> int:
    return -(-examples // size)


def _line_ends(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """For each id, whether its text ends a line."""
    ends = np.zeros(int(tokenizer.known_ids.max()) + 1, dtype=bool)
    for id in tokenizer.known_ids.tolist():
        ends[id] = tokenizer.decode([id]).endswith("\n")
    return ends
