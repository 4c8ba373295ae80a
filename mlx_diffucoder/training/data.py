"""What is learnt from: texts as `evaluation/texts.py` reads them, in ids, and how many do not fit."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import encode_samples, read_samples
from ..errors import TrainError
from ..tokenizer import Tokenizer

MOST_TOKENS = 2**30  # of one text; whether it fits is asked later, of all of them


@dataclass(frozen=True, eq=False)
class Example:
    """A text in ids: int32 arrays.

    Attributes:
        prompt: never masked, at least one id.
        answer: with its end token, where the tokenizer has one.
    """

    where: str
    prompt: NDArray[np.int32]
    answer: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a file that fit, and how many did not."""

    kept: list[Example]
    skipped: int

    @property
    def longest(self) -> int:
        return max(map(len, self.kept))


def read_examples(path: Path, tokenizer: Tokenizer, *, max_length: int, skip_long: bool) -> Examples:
    """Every text of a JSONL file, all of them checked before any is used.

    Raises:
        TaskError: the file cannot be read or is empty, or a line is no text; the message names the line.
        TrainError: texts are longer than `max_length` and `skip_long` is not asked for, or none is left.
    """
    every = [
        Example(text.where, np.array(text.prompt, dtype=np.int32), np.array(text.answer, dtype=np.int32))
        for sample in read_samples(path)
        for text in encode_samples([sample], tokenizer, MOST_TOKENS)
    ]
    kept = [example for example in every if len(example) <= max_length]
    skipped = len(every) - len(kept)
    if skipped and not skip_long:
        raise TrainError(f"{path}: {_too_long(every, max_length)}; --skip-long leaves them out, --max-length makes room for more")
    if not kept:
        raise TrainError(f"{path}: {_too_long(every, max_length)}, so nothing is left; --max-length makes room for more")
    return Examples(kept, skipped)


def _too_long(every: Iterable[Example], max_length: int) -> str:
    long = [example for example in every if len(example) > max_length]
    longest = max(long, key=len)
    many = "1 text is" if len(long) == 1 else f"{len(long)} texts are"
    return f"{many} longer than {max_length} tokens (the longest {len(longest)}, at {longest.where.rpartition(':')[2]})"
