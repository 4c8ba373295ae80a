"""Training examples: the texts that `data.py` reads, in ids, and the number that do not fit."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import encode_samples, read_samples
from ..errors import TrainError
from ..tokenizer import Tokenizer

MOST_TOKENS = 2**30  # per text; whether all fit is checked later


@dataclass(frozen=True, eq=False)
class Example:
    """A text in ids: int32 arrays.

    Attributes:
        where: file and line.
        prompt: never masked; at least one id.
        answer: includes its end token, if the tokenizer has one.
    """

    where: str
    prompt: NDArray[np.int32]
    answer: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a file that fit, and the number of those that do not."""

    kept: list[Example]
    skipped: int

    @property
    def longest(self) -> int:
        return max(map(len, self.kept))


def read_examples(path: Path, tokenizer: Tokenizer, *, max_length: int, skip_long: bool) -> Examples:
    """Read every text of a file; all are checked before any is used.

    Raises:
        TaskError: the file cannot be read or is empty, or a line is not a text; the message names the line.
        TrainError: texts are longer than `max_length` and `skip_long` is not set, or no text is left.
    """
    every = [
        Example(text.where, np.array(text.prompt, dtype=np.int32), np.array(text.answer, dtype=np.int32))
        for sample in read_samples(path)
        for text in encode_samples([sample], tokenizer, MOST_TOKENS)
    ]
    kept = [example for example in every if len(example) <= max_length]
    skipped = len(every) - len(kept)
    if skipped and not skip_long:
        raise TrainError(f"{path}: {_too_long(every, max_length)}; skip them with --skip-long, or raise --max-length")
    if not kept:
        raise TrainError(f"{path}: {_too_long(every, max_length)}, so none is left; raise --max-length")
    return Examples(kept, skipped)


def _too_long(every: Iterable[Example], max_length: int) -> str:
    long = [example for example in every if len(example) > max_length]
    longest = max(long, key=len)
    many = "1 text is" if len(long) == 1 else f"{len(long)} texts are"
    return f"{many} longer than {max_length} tokens (the longest {len(longest)}, at {longest.where.rpartition(':')[2].strip()})"
