"""Batches of canvases: which examples, their length, and the holes.

A batch follows from the seed and its number alone, so a resumed run draws what an uninterrupted one would have drawn.

There are two kinds of canvas:

    answer    prompt + answer + end token + padding                              targets: everything after the prompt
    infilling prompt + text + [span + padding] + text + … + end token + padding        targets: the holes

Padding tokens (`Tokenizer.pad_id`) fill the rest of a hole, so the model learns where the text of a hole ends. A canvas
has one to `HOLES` holes. Some infilling canvases have no prompt: they are code alone and end as texts do
(`Tokenizer.end_id`). Spans are cut between tokens; half of the time, at line ends.

Each target is masked with a probability drawn for its canvas. Some answers are instead masked from some position to the
end, which lies in the answer or at the start of its padding. The padding after some answers is masked with a probability
of its own, because a decoder that commits the most confident tokens first commits much of it before the answer.

For the causal objective a canvas is prompt + answer + end token, and the padding up to the longest row is not a target.
For the mixed one every second batch is such, filled up with masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data import Text
from ..tokenizer import Tokenizer
from .objective import Noised, draw_masks, mask_from, timesteps
from .settings import TrainSettings

SORTED_TOGETHER = 32  # batches whose examples are sorted by length
MULTIPLE = 8  # canvas lengths are multiples of this, so that there are few shapes
NO_PROMPT = 0.5  # share of infilling canvases without a prompt
HOLES = 3  # the most on a canvas; half of the time there is one


@dataclass(frozen=True, eq=False)
class Canvases:
    """The canvases of a batch, before masking.

    Attributes:
        tokens: int32 `[B, L]`, with nothing masked.
        learnt: bool `[B, L]`, the targets.
        answers: `[B]`, tokens of the answer with its end token; 0 for infilling canvases.
    """

    tokens: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    answers: Sequence[int]


Row = tuple[NDArray[np.int32], NDArray[np.bool_], int]
"""One canvas: tokens `[L]`, targets `[L]`, and the length of the answer."""


class Batches:
    """The endless sequence of a run's batches, addressed by number."""

    def __init__(self, examples: Sequence[Text], tokenizer: Tokenizer, settings: TrainSettings):
        self._examples, self._settings = examples, settings
        self._mask_id, self._pad_id = tokenizer.mask_id, tokenizer.pad_id
        self._end_id = tokenizer.end_id(chat=False)
        self._ends_line = _line_ends(tokenizer) if settings.infill else np.zeros(0, dtype=bool)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def per_epoch(self) -> int:
        return batches_per_epoch(len(self._examples), self._settings.batch_size)

    def draw(self, number: int, together: int = 1) -> list[Noised]:
        """`together` batches from `number` on, whose losses sum to a mean over all their targets.

        If two objectives are mixed, to one mean for each.
        """
        drawn = [(self._causal(one), *self._canvases(one)) for one in range(number, number + together)]
        counts = {
            kind: max(1, sum(int(one.learnt.sum()) for causal, one, _ in drawn if causal == kind)) for kind in (True, False)
        }
        return [self._noised(one, rng, counts[causal], causal) for causal, one, rng in drawn]

    def _noised(self, canvases: Canvases, rng: np.random.Generator, count: int, causal: bool) -> Noised:
        tokens, learnt = canvases.tokens, canvases.learnt
        if self._settings.objective == "causal":
            return Noised.left_to_right(tokens, learnt, count)
        if causal:
            return Noised.after_prompts(tokens, learnt, self._mask_id, count)
        t = timesteps(rng, len(tokens), self._settings.least_t)
        masked, weights = draw_masks(rng, learnt, t), np.broadcast_to(1 / t[:, None], tokens.shape).copy()
        length = tokens.shape[1]
        for row, answer in enumerate(canvases.answers):
            first = int(learnt[row].argmax())
            end = first + answer
            if answer and self._settings.prefixes and rng.random() < self._settings.prefixes:
                places = min(answer + 1, length - first)  # the answer's positions, and the first after it
                masked[row], weights[row] = mask_from(first + int(rng.integers(places)), places, length)
            if answer and self._settings.padding and rng.random() < self._settings.padding:
                (own,) = timesteps(rng, 1, self._settings.least_t)
                masked[row, end:], weights[row, end:] = rng.random(length - end) < own, 1 / own
        return Noised.of(tokens, masked, weights / count, self._mask_id, self._settings.smoothing)

    def _causal(self, number: int) -> bool:
        return self._settings.objective == "causal" or (self._settings.objective == "mixed" and number % 2 == 1)

    def _canvases(self, number: int) -> tuple[Canvases, np.random.Generator]:
        epoch, place = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        chosen = [self._examples[index] for index in self._epoch[1][place]]
        rng = np.random.default_rng([self._settings.seed, 1, number])
        causal = self._causal(number)
        length = self._length(rng, max(map(len, chosen)), causal)
        tokens, learnt, answers = zip(*(self._row(rng, example, length, causal) for example in chosen), strict=True)
        return Canvases(np.stack(tokens), np.stack(learnt), answers), rng

    def _order(self, epoch: int) -> list[list[int]]:
        """The examples of an epoch in batches of similar lengths, in random order."""
        rng = np.random.default_rng([self._settings.seed, 0, epoch])
        order, size = rng.permutation(len(self._examples)), self._settings.batch_size
        lengths = np.array([len(example) for example in self._examples])
        batches: list[list[int]] = []
        for start in range(0, len(order), size * SORTED_TOGETHER):
            group = order[start : start + size * SORTED_TOGETHER]
            group = group[np.argsort(lengths[group], kind="stable")]
            batches += [group[at : at + size].tolist() for at in range(0, len(group), size)]
        return [batches[index] for index in rng.permutation(len(batches))]

    def _length(self, rng: np.random.Generator, longest: int, causal: bool) -> int:
        most, drawn = self._settings.max_length, rng.random()
        share = {"random": drawn**6, "longest": 0.0, "full": 1.0}["longest" if causal else self._settings.canvas]
        length = longest * (most / longest) ** share
        return min(most, -(-int(length) // MULTIPLE) * MULTIPLE)

    def _row(self, rng: np.random.Generator, example: Text, length: int, causal: bool) -> Row:
        if rng.random() < self._settings.infill and len(example.answer) > 2 and not causal:
            return self._with_holes(rng, example, length)
        tokens = np.full(length, self._pad_id, dtype=np.int32)
        tokens[: len(example)] = np.concatenate([example.prompt, example.answer])
        places = np.arange(length)
        learnt = (places >= len(example.prompt)) & (places < (len(example) if causal else length))
        return tokens, learnt, len(example.answer)

    def _with_holes(self, rng: np.random.Generator, example: Text, length: int) -> Row:
        text, end = example.answer[:-1], example.answer[-1:]
        asked = len(example.prompt) == 1 or rng.random() >= NO_PROMPT
        if not asked and self._end_id is not None:
            end = np.array([self._end_id], dtype=np.int32)
        before = example.prompt if asked else example.prompt[:0]
        # The shift: no row predicts the first token of a canvas.
        spans = self._spans(rng, text, least=0 if len(before) else 1)
        room = rng.multinomial(rng.integers(length - len(before) - len(text)), np.full(len(spans), 1 / len(spans)))
        pieces, learnt, known = [before], np.zeros(length, dtype=bool), 0
        for (start, stop), more in zip(spans, room, strict=True):
            pieces += [text[known:stop], np.full(more, self._pad_id)]
            end_of_hole = sum(map(len, pieces))
            learnt[end_of_hole - more - (stop - start) : end_of_hole] = True
            known = stop
        shown = np.concatenate([*pieces, text[known:], end])
        tokens = np.full(length, self._pad_id, dtype=np.int32)
        tokens[: len(shown)] = shown
        return tokens, learnt, 0

    def _spans(self, rng: np.random.Generator, text: NDArray[np.int32], least: int = 0) -> list[tuple[int, int]]:
        """Starts and stops of spans with text between them, cut between any two tokens or at line ends.

        Args:
            least: the first position where a span may start.
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
    """For each id, whether its text ends with a newline."""
    ends = np.zeros(int(tokenizer.known_ids.max()) + 1, dtype=bool)
    for id in tokenizer.known_ids.tolist():
        ends[id] = tokenizer.decode([id]).endswith("\n")
    return ends
