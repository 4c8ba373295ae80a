"""Batches of canvases: which examples, how long, and where the holes are.

Everything about a batch follows from the seed and its number, so a run that goes on from a checkpoint
draws what an unbroken one would have drawn.

A canvas is one of two:

    answer    prompt + answer + end token + padding                all behind the prompt is learnt
    infilling prompt + prefix + [span + padding] + suffix + end token + padding        the hole is learnt

In a hole, what the span leaves over is filled with the padding token (`Tokenizer.pad_id`): how long the text
is can be found, and need not be told. The prompt of an infilling canvas is left away for some, which is then
code alone. Prefix and suffix are cut where tokens end, half of the time at the ends of lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tokenizer import Tokenizer
from .data import Example
from .objective import LEAST_T, Noised, draw_masks, timesteps

SORTED_TOGETHER = 32  # batches whose examples are sorted by length
MULTIPLE = 8  # of canvas lengths, so that few shapes are met
NO_PROMPT = 0.5  # share of the infilling canvases that are code alone

Row = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Tokens `[L]`, and which are learnt."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How batches are drawn.

    Attributes:
        size: examples a batch.
        max_length: of a canvas, the longest.
        infill: share of the examples that become holes.
        canvas: `random`: a length between the batch's longest example and `max_length`, most of them short
            (the cube of a uniform number, on a logarithmic scale); `longest`: the batch's longest example; `full`: `max_length`.
        seed: of all that is drawn.
        least_t: see `timesteps`.
    """

    size: int
    max_length: int
    infill: float = 0.0
    canvas: str = "random"
    seed: int = 0
    least_t: float = LEAST_T


class Batches:
    """The endless sequence of a run's batches, each known by its number."""

    def __init__(self, examples: Sequence[Example], tokenizer: Tokenizer, drawing: Drawing):
        self._examples, self._drawing = examples, drawing
        self._mask_id, self._pad_id = tokenizer.mask_id, tokenizer.pad_id
        self._ends_line = _line_ends(tokenizer) if drawing.infill else np.zeros(0, dtype=bool)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def per_epoch(self) -> int:
        return batches_per_epoch(len(self._examples), self._drawing.size)

    def draw(self, number: int, together: int = 1) -> list[Noised]:
        """Batches number, number + 1, …: `together` of them, whose losses sum up to a mean over all their tokens."""
        drawn = [self._canvases(number + one) for one in range(together)]
        count = max(1, sum(int(learnt.sum()) for _, learnt, _ in drawn))
        noised = []
        for tokens, learnt, rng in drawn:
            t = timesteps(rng, len(tokens), self._drawing.least_t)
            noised.append(Noised.of(tokens, draw_masks(rng, learnt, t), t, self._mask_id, count))
        return noised

    def _canvases(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.bool_], np.random.Generator]:
        epoch, place = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        chosen = [self._examples[index] for index in self._epoch[1][place]]
        rng = np.random.default_rng([self._drawing.seed, 1, number])
        length = self._length(rng, max(map(len, chosen)))
        rows = [self._row(rng, example, length) for example in chosen]
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]), rng

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

    def _length(self, rng: np.random.Generator, longest: int) -> int:
        most, drawn = self._drawing.max_length, rng.random()
        share = {"random": drawn**3, "longest": 0.0, "full": 1.0}[self._drawing.canvas]
        length = longest * (most / longest) ** share
        return min(most, -(-int(length) // MULTIPLE) * MULTIPLE)

    def _row(self, rng: np.random.Generator, example: Example, length: int) -> Row:
        if rng.random() < self._drawing.infill and len(example.answer) > 2:
            return self._with_hole(rng, example, length)
        tokens = np.full(length, self._pad_id, dtype=np.int32)
        tokens[: len(example)] = np.concatenate([example.prompt, example.answer])
        return tokens, np.arange(length) >= len(example.prompt)

    def _with_hole(self, rng: np.random.Generator, example: Example, length: int) -> Row:
        text = example.answer[:-1]  # its end token stays behind the suffix
        asked = len(example.prompt) == 1 or rng.random() >= NO_PROMPT
        before = example.prompt if asked else example.prompt[:0]
        start, stop = self._span(rng, text)
        if not len(before):
            start = max(start, 1)  # the shift: the first token of a canvas is predicted by none
            stop = max(stop, start + 1)
        known = np.concatenate([before, text[:start]])
        room = length - len(known) - len(example.answer) + start
        hole = stop - start + int(rng.integers(room + 1))
        tokens = np.full(length, self._pad_id, dtype=np.int32)
        tokens[: len(known)] = known
        tokens[len(known) : len(known) + stop - start] = text[start:stop]
        behind = example.answer[stop:]
        tokens[len(known) + hole : len(known) + hole + len(behind)] = behind
        place = np.arange(length)
        return tokens, (place >= len(known)) & (place < len(known) + hole)

    def _span(self, rng: np.random.Generator, text: NDArray[np.int32]) -> tuple[int, int]:
        """Where a span starts and stops: between any two tokens, or whole lines."""
        cuts = np.arange(len(text) + 1)
        if rng.random() < 0.5:
            inner = np.flatnonzero(self._ends_line[text[:-1]]) + 1
            cuts = np.concatenate([[0], inner, [len(text)]])
        first = int(rng.integers(len(cuts) - 1))
        last = int(rng.integers(first + 1, len(cuts)))
        return int(cuts[first]), int(cuts[last])


def batches_per_epoch(examples: int, size: int) -> int:
    return -(-examples // size)


def _line_ends(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """For each id, whether its text ends a line."""
    ends = np.zeros(int(tokenizer.known_ids.max()) + 1, dtype=bool)
    for id in tokenizer.known_ids.tolist():
        ends[id] = tokenizer.decode([id]).endswith("\n")
    return ends
