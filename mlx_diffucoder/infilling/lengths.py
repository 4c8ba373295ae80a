"""The search for the lengths of the holes' texts.

A canvas needs a number of masks for each hole, but the length of the text is not known.

- `given`: the caller names every length. One canvas.
- `told_by_model`: one canvas of a short length, and then one of the longest if the model does not end each text itself with an
  end token (`rows_to_try`).
- `search`: lengths are compared while the holes are masks only: at the right length the model finds the tokens after the hole
  the most probable. One canvas of the best length is filled; then those of the lengths next to it; then those of the best of
  all lengths. The search ends at a text that is probable enough.

A model that changes the length of a hole itself (DreamOn) needs no search: `resized`.
"""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import NamedTuple

from .task import Attempt, InfillTask

EVERY = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64)
"""Lengths in tokens that a hole may have where it is not given, up to `max_tokens`."""
COARSE, FINE = (7, 3, 11, 15), (-2, -1, 1, 2)  # lengths compared first, and the steps from the best of them
SHORT = 24  # tokens of a hole at most before the longest is tried, in `told_by_model`
LIKELY = -0.5  # nats: the least score at which a text is taken before all lengths are compared


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
    """Fill the holes, with lengths found as described above.

    Args:
        tries: how many texts are compared at most; 1 takes the model at its word (`told_by_model`).
    """
    if None not in task.lengths:
        return given(task)
    takes_word = tries == 1 or not all(task.texts[1:])  # where nothing follows a hole, nothing tells its length
    if takes_word and (found := told_by_model(task)):
        return found
    attempts, scores = list[Attempt](), list[list[float]]()  # for each attempt the score of each hole
    for rows in rows_to_compare(task, tries, attempts, scores):
        attempts += task.attempts(rows, exact=True)
        scores += task.scores(attempts[len(scores) :])
        if max(map(min, scores)) > LIKELY:
            break
    best = max(range(len(scores)), key=lambda one: mean(scores[one]))
    return Found(attempts[best], mean(scores[best]), agreed=False)


def given(task: InfillTask) -> Found:
    """Fill holes whose lengths the caller gave to the last token."""
    (only,) = task.attempts([[length or 0 for length in task.lengths]], exact=True)
    return Found(only, mean(task.scores([only])[0]), agreed=False)


def resized(task: InfillTask) -> Found:
    """Let the model change the lengths while it fills the holes."""
    only = task.resized()
    return Found(only, mean(task.scores([only])[0]), agreed=True)


def told_by_model(task: InfillTask) -> Found | None:
    """Take the texts as the model ends them; None where it ended one before its given length."""
    for row in rows_to_try(task):
        (attempt,) = task.attempts([row], exact=False)
        if is_ended(task, attempt):
            break
    if not _has_given_lengths(task, attempt):
        return None
    return Found(attempt, mean(task.scores([attempt])[0]), is_ended(task, attempt))


def rows_to_try(task: InfillTask) -> list[list[int]]:
    """The holes' lengths on a first canvas, and on a second if the model did not end every text on the first.

    The text after the first hole stands at a multiple of half of `SHORT`. So it stays where it is while somebody types before it,
    and so do most of its K/V (`server.kept`).
    """
    longest = task.config.max_tokens
    short = SHORT - len(task.texts[0]) % (SHORT // 2)
    return [_filled_in(task, length) for length in dict.fromkeys((min(short, longest), longest))]


def rows_to_compare(
    task: InfillTask, tries: int, attempts: Sequence[Attempt], scores: Sequence[Sequence[float]]
) -> Iterator[list[list[int]]]:
    """The holes' lengths on the canvases to fill, those to fill together in one list.

    A hole whose text is probable enough keeps its length while lengths of the other holes are tried. On the last canvas each hole
    has the length that did best for it.

    Args:
        tries: canvases at most, and one more where there are several holes.
        attempts, scores: those of all rows so far, to which the caller adds; a score for each hole.
    """
    longest = task.config.max_tokens
    known: list[dict[int, float]] = [{} for _ in task.lengths]  # for each hole the score of each length

    def compare(rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Score rows of lengths; all lengths of each hole so far, the best first."""
        new = [
            row for row in dict.fromkeys(map(tuple, rows)) if any(one not in hole for hole, one in zip(known, row, strict=True))
        ]
        for row, scores in zip(new, task.length_scores(new), strict=True):
            for hole, length, score in zip(known, row, scores, strict=True):
                hole[length] = score
        return [sorted(hole, key=lambda length: hole[length], reverse=True) for hole in known]

    def near(lengths: Sequence[int], steps: Sequence[int]) -> list[list[int]]:
        moved = [[min(max(1, length + step), longest) for length in lengths] for step in steps]
        return [[told or one for told, one in zip(task.lengths, row, strict=True)] for row in moved]

    best = [hole[0] for hole in compare([_filled_in(task, min(length, longest)) for length in COARSE])]
    best = [hole[0] for hole in compare(near(best, FINE))]
    yield [best]
    yield from _not_filled(near(best, (-1, 1)), tries - 1, attempts, scores)
    ranked = compare([_filled_in(task, length) for length in EVERY if length <= longest])
    tried = [set(map(len, texts)) for texts in zip(*(one.ids for one in attempts), strict=True)]
    left = [[one for one in hole if one not in seen] or hole[:1] for hole, seen in zip(ranked, tried, strict=True)]
    rows = [[hole[min(place, len(hole) - 1)] for hole in left] for place in range(max(map(len, left)))]
    yield from _not_filled([_best_of_each(attempts, scores), *rows], tries - len(attempts), attempts, scores)
    yield from _not_filled([_best_of_each(attempts, scores)], 1, attempts, scores)


def _not_filled(
    rows: Sequence[Sequence[int]], most: int, attempts: Sequence[Attempt], scores: Sequence[Sequence[float]]
) -> Iterator[list[list[int]]]:
    """The first of some rows that are not filled yet, as one list; a hole whose text is probable enough keeps its length."""
    likely = [max(hole) > LIKELY for hole in zip(*scores, strict=True)]
    best = _best_of_each(attempts, scores)
    kept = [tuple(old if keep else new for keep, old, new in zip(likely, best, row, strict=True)) for row in rows]
    filled = {tuple(map(len, one.ids)) for one in attempts}
    if left := [list(row) for row in dict.fromkeys(kept) if row not in filled][: max(0, most)]:
        yield left


def _best_of_each(attempts: Sequence[Attempt], scores: Sequence[Sequence[float]]) -> list[int]:
    """For each hole the length at which its own text is the most probable."""
    best = [hole.index(max(hole)) for hole in zip(*scores, strict=True)]
    return [len(attempts[one].ids[hole]) for hole, one in enumerate(best)]


def _filled_in(task: InfillTask, length: int) -> list[int]:
    """The holes' lengths, with `length` for those that are not given."""
    return [length if one is None else one for one in task.lengths]


def _has_given_lengths(task: InfillTask, attempt: Attempt) -> bool:
    """Whether the model ended no text before the length that the caller gave for it."""
    return all(length in (None, len(ids)) for length, ids in zip(task.lengths, attempt.ids, strict=True))


def is_ended(task: InfillTask, attempt: Attempt) -> bool:
    """Whether the model ended the text of every hole whose length is not given."""
    return all(ended or length is not None for length, ended in zip(task.lengths, attempt.ended, strict=True))
