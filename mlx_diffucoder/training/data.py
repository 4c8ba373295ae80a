"""Training examples: the texts that `data.py` reads, in ids, and the number that do not fit."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import Text, encoded, samples_in
from ..errors import TrainError
from ..sample_rows import Sample
from ..tokenizer import Tokenizer

MOST_TOKENS = 2**30  # per text; whether all fit is checked later
REPORTED_TOGETHER = 100  # texts


class Texts(Sequence[Text]):
    """Texts in one array of ids: objects of their own take several times the memory."""

    def __init__(self, texts: Iterable[Text]) -> None:
        ids, ends = array("i"), array("q", [0])
        for text in texts:
            for part in (text.prompt, text.answer):
                ids.frombytes(part.tobytes())
                ends.append(len(ids))
        self._ids, self._ends = np.frombuffer(ids, dtype=np.int32), np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) // 2

    def __getitem__(self, index: int) -> Text:  # type: ignore[override]
        start, middle, end = self._ends[2 * range(len(self))[index] :][:3]
        return Text(self._ids[start:middle], self._ids[middle:end])


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a file that fit, and the number of those that do not."""

    kept: Texts
    skipped: int


def read_examples(
    path: Path, tokenizer: Tokenizer, *, max_length: int, skip_long: bool, advance: Callable[[int], None] = lambda count: None
) -> Examples:
    """Read every text of a file; all are checked before any is used.

    Args:
        advance: called with the number of texts read since the last call.

    Raises:
        TaskError: the file cannot be read or is empty, or a line is not a text; the message names the line.
        TrainError: texts are longer than `max_length` and `skip_long` is not set, or no text is left.
    """
    long = _TooLong(max_length)
    short = (one for one in _reported(path, advance) if not long.counted(one.least_tokens(tokenizer), one, "at least "))
    kept = Texts(text for one, text in encoded(short, tokenizer, MOST_TOKENS) if not long.counted(len(text), one))
    if long.count and not skip_long:
        raise TrainError(f"{path}: {long}; skip them with --skip-long, or raise --max-length")
    if not kept:
        raise TrainError(f"{path}: {long}, so none is left; raise --max-length")
    return Examples(kept, long.count)


def _reported(path: Path, advance: Callable[[int], None]) -> Iterator[Sample]:
    for number, sample in enumerate(samples_in(path), start=1):
        if number % REPORTED_TOGETHER == 0:
            advance(REPORTED_TOGETHER)
        yield sample


class _TooLong:
    """The texts of more than `limit` tokens."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count, self.longest = limit, 0, (0, "")

    def counted(self, length: int, sample: Sample, about: str = "") -> bool:
        """Whether a text of this length is one of them."""
        if length > self.limit:
            line = sample.where.rpartition(":")[2].strip()
            self.count += 1
            self.longest = max(self.longest, (length, f"{about}{length}, at {line}"), key=lambda one: one[0])
        return length > self.limit

    def __str__(self) -> str:
        many = "1 text is" if self.count == 1 else f"{self.count} texts are"
        return f"{many} longer than {self.limit} tokens (the longest {self.longest[1]})"
