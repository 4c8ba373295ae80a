"""Last lines of a hole that the text after it begins with: they would stand there twice."""

from io import StringIO
from itertools import islice
from statistics import mean

from ..decoding.hole_layout import unwrapped
from .task import Attempt, InfillTask


def without_repetition(text: str, suffix: str) -> str:
    """A hole's text without last lines that the text after it begins with."""
    lines = text.splitlines(keepends=True)
    after = list(islice(StringIO(suffix.lstrip("\n")), len(lines)))
    for count in range(min(len(lines), len(after)), 0, -1):
        if [one.rstrip() for one in lines[-count:]] == [one.rstrip() for one in after[:count]] and any(
            map(str.strip, after[:count])
        ):
            left = "".join(lines[:-count])
            return left.removesuffix("\n") if suffix.startswith("\n") else left
    return text


def trimmed(task: InfillTask, attempt: Attempt, score: float) -> tuple[Attempt, float]:
    """The texts without last lines that repeat what follows, where the model finds them more probable so, and their score.

    A `}` or a `return x` that belongs there stays. A hole of a given length stays as it is.

    Args:
        score: the attempt's, as from `InfillTask.scores`.
    """
    tokenizer, shown = task.tokenizer, task.context
    for hole, length in enumerate(task.lengths):
        lead, tail = shown.leads[hole], shown.tails[hole]
        text = unwrapped(tokenizer.decode(attempt.ids[hole]), lead, tail)
        shorter = without_repetition(text, tail + tokenizer.decode(shown.ids[hole + 1]))
        if length is not None or shorter == text:
            continue
        ids = [*attempt.ids[:hole], tokenizer.encode_plain(lead + shorter + tail), *attempt.ids[hole + 1 :]]
        other = attempt._replace(ids=ids)
        if (others := mean(task.scores([other])[0])) > score:
            attempt, score = other, others
    return attempt, score
