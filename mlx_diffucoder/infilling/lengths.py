"""The search for the lengths of the holes' texts.

A canvas needs a number of masks for each hole, but the length of the text is not known. The stages, in order:

1. `given`: the caller names every length. One canvas.
2. `told_by_model`: one canvas of a short length, and then one of the longest if the model does not end each text itself with an
   end token (`rows_to_try`).
3. `likely`: holes of masks only, of some lengths and then of those around the best: at the right length the model finds the
   tokens after the hole the most probable. One canvas of that length, or else one of each length next to it. The text is
   taken if it is probable enough.
4. `agreed`: canvases of several lengths, each half of the one before. A model that was trained to infill ends its
   texts itself and writes the same in all of them. A text that two canvases agree on is taken if it is probable enough.
5. `exhaustive`: otherwise canvases of every small length, which must be filled to the last token. The text is kept
   that the model finds the most probable, together with the first tokens after the hole.

A model that changes the length of a hole itself (DreamOn) needs no search: `resized`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .task import Attempt, InfillTask

EXACT = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64)
"""Lengths in tokens that the exhaustive stage tries, up to `max_tokens`."""
BATCH = 8  # canvases denoised together in the exhaustive stage
FINALISTS = 4  # texts whose own tokens are scored, too
COARSE, FINE = (3, 7, 11, 15), (-2, -1, 1, 2)  # lengths the stage `likely` tries first, and the steps from the best of them
SHORT = 24  # tokens of a hole at most before the longest is tried, in the stage `told_by_model`
LIKELY = -0.5  # nats: the least score of a text of the length that masks alone told
AGREED = -1.0  # nats: the least mean log-probability of a text that canvases agree on


class Found(NamedTuple):
    """The texts that a search chose.

    Attributes:
        attempt: the texts.
        score: their mean log-probability, `InfillTask.scores`.
        agreed: whether the model itself told where they end.
    """

    attempt: Attempt
    score: float
    agreed: bool


def search(task: InfillTask, tries: int) -> Found:
    """Fill the holes, with lengths found by the stages above.

    Args:
        tries: canvases in the stage `agreed`; 1 takes the model at its word (`told_by_model`).
    """
    if None not in task.lengths:
        return given(task)
    if tries == 1:
        return told_by_model(task) or exhaustive(task, [])
    if found := likely(task):
        return found
    longest = task.config.max_tokens
    lengths = dict.fromkeys(max(1, longest >> halvings) for halvings in range(tries))
    attempts = task.attempts([_filled_in(task, length) for length in lengths], exact=False)
    attempts = [one for one in attempts if _has_given_lengths(task, one)]
    return agreed(task, attempts) or exhaustive(task, attempts)


def given(task: InfillTask) -> Found:
    """Fill holes whose lengths the caller gave to the last token."""
    (only,) = task.attempts([[length or 0 for length in task.lengths]], exact=True)
    return Found(only, task.scores([only])[0], agreed=False)


def resized(task: InfillTask) -> Found:
    """Let the model change the lengths while it fills the holes."""
    only = task.resized()
    return Found(only, task.scores([only])[0], agreed=True)


def told_by_model(task: InfillTask) -> Found | None:
    """Take the texts as the model ends them; None where it ended one before its given length."""
    for row in rows_to_try(task):
        (attempt,) = task.attempts([row], exact=False)
        if is_ended(task, attempt):
            break
    return Found(attempt, task.scores([attempt])[0], is_ended(task, attempt)) if _has_given_lengths(task, attempt) else None


def rows_to_try(task: InfillTask) -> list[list[int]]:
    """The holes' lengths on a first canvas, and on a second if the model did not end every text on the first.

    The text after the first hole stands at a multiple of half of `SHORT`. So it stays where it is while somebody types before it,
    and so do most of its K/V (`server.kept`).
    """
    longest = task.config.max_tokens
    short = SHORT - len(task.texts[0]) % (SHORT // 2)
    return [_filled_in(task, length) for length in dict.fromkeys((min(short, longest), longest))]


def likely(task: InfillTask) -> Found | None:
    """The text of the length that the model expects before it sees any of the text; None unless it is probable enough."""
    if not all(task.texts[1:]):
        return None  # nothing follows a hole, so nothing tells its length
    longest = task.config.max_tokens
    known: list[dict[int, float]] = [{} for _ in task.lengths]  # for each hole the score of each length

    def best_of(rows: list[list[int]]) -> list[int]:
        for lengths, scores in zip(rows, task.length_scores(rows), strict=True):
            for hole, length, score in zip(known, lengths, scores, strict=True):
                hole[length] = score
        return [max(hole, key=lambda length: hole[length]) for hole in known]

    def near(lengths: list[int], steps: Sequence[int]) -> list[list[int]]:
        moved = [[min(max(1, length + step), longest) for length in lengths] for step in steps]
        return [[told or one for told, one in zip(task.lengths, row, strict=True)] for row in moved]

    best = best_of([_filled_in(task, length) for length in dict.fromkeys(min(one, longest) for one in COARSE)])
    best = best_of(near(best, FINE))
    for lengths in filter(None, ([best], [row for row in near(best, (-1, 1)) if row != best])):
        attempts = task.attempts(lengths, exact=True)
        scores = task.scores(attempts)
        if max(scores) > LIKELY:
            return Found(attempts[int(np.argmax(scores))], max(scores), agreed=False)
    return None


def agreed(task: InfillTask, attempts: Sequence[Attempt]) -> Found | None:
    """The texts that two canvases agree on, if the model ended them, none is empty and they are probable; else None."""
    complete = (one for one in attempts if is_ended(task, one) and all(one.ids))
    found = next((one for one in complete if sum(other.key == one.key for other in attempts) > 1), None)
    if found is None or (score := task.scores([found])[0]) <= AGREED:
        return None
    return Found(found, score, agreed=True)


def exhaustive(task: InfillTask, attempts: Sequence[Attempt]) -> Found:
    """The most probable of some attempts and of one more for each small length.

    All are compared by the tokens after the holes, the best of them also by their own tokens.
    """
    different = list({one.key: one for one in [*attempts, *_every_length(task)]}.values())
    scores = task.following_scores(different)  # [attempts, holes]
    order = np.argsort([-sum(one) for one in scores], kind="stable")
    finalists = [different[index] for index in order[:FINALISTS]]
    if len(task.lengths) > 1:
        # One more canvas: each hole at the length at which it did best by itself.
        best = [different[int(np.argmax([one[hole] for one in scores]))] for hole in range(len(task.lengths))]
        finalists += task.attempts([[max(1, len(one.ids[hole])) for hole, one in enumerate(best)]], exact=True)
    final_scores = task.scores(finalists)
    return Found(finalists[int(np.argmax(final_scores))], max(final_scores), agreed=False)


def _every_length(task: InfillTask) -> Iterator[Attempt]:
    lengths = [length for length in EXACT if length <= task.config.max_tokens]
    for start in range(0, len(lengths), BATCH):
        batch = lengths[start : start + BATCH]
        yield from task.attempts([_filled_in(task, length) for length in batch], exact=True)


def _filled_in(task: InfillTask, length: int) -> list[int]:
    """The holes' lengths, with `length` for those that are not given."""
    return [length if one is None else one for one in task.lengths]


def _has_given_lengths(task: InfillTask, attempt: Attempt) -> bool:
    """Whether the model ended no text before the length that the caller gave for it."""
    return all(length in (None, len(ids)) for length, ids in zip(task.lengths, attempt.ids, strict=True))


def is_ended(task: InfillTask, attempt: Attempt) -> bool:
    """Whether the model ended the text of every hole whose length is not given."""
    return all(ended or length is not None for length, ended in zip(task.lengths, attempt.ended, strict=True))
