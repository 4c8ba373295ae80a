"""Training examples: the texts that `data.py` reads, in ids, and the number that do not fit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..data import Text, encode_samples, samples_in
from ..errors import TrainError
from ..tokenizer import Tokenizer

MOST_TOKENS = 2**30  # per text; whether all fit is checked later
REPORTED_TOGETHER = 100  # texts


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a file that fit, and the number of those that do not."""

    kept: list[Text]
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
    kept, skipped, longest = list[Text](), 0, (0, "", "")
    for number, sample in enumerate(samples_in(path), start=1):
        if number % REPORTED_TOGETHER == 0:
            advance(REPORTED_TOGETHER)
        length, about = sample.least_tokens(tokenizer), "at least "
        if length <= max_length:
            (text,) = encode_samples([sample], tokenizer, MOST_TOKENS)
            length, about = len(text), ""
        if length <= max_length:
            kept.append(text)
        else:
            skipped += 1
            longest = max(longest, (length, f"{about}{length}", sample.where), key=lambda one: one[0])
    many = "1 text is" if skipped == 1 else f"{skipped} texts are"
    line = longest[2].rpartition(":")[2].strip()
    long = f"{path}: {many} longer than {max_length} tokens (the longest {longest[1]}, at {line})"
    if skipped and not skip_long:
        raise TrainError(f"{long}; skip them with --skip-long, or raise --max-length")
    if not kept:
        raise TrainError(f"{long}, so none is left; raise --max-length")
    return Examples(kept, skipped)
