"""Files of texts to train, calibrate or compare on: rows of JSON, and their token ids.

`sample_rows.py` has the formats of the rows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError, DiffucoderError, TaskError
from .sample_rows import Sample, sample_of
from .tasks import read_rows
from .tokenizer import Tokenizer

HELD_OUT = Path(__file__).with_name("texts.jsonl")
"""80 small Python functions with prompts in English: the unseen tasks of `bench/tasks/functions.jsonl`."""

TOGETHER, MOST_CHARACTERS = 100, 2**20
"""Samples whose chats are rendered together, at most, and the characters after which no more are added."""


@dataclass(frozen=True, eq=False, slots=True)
class Text:
    """The ids of a sample, int32 arrays.

    Attributes:
        prompt: never masked; at least one id.
        answer: includes its end token, if the tokenizer has one.
    """

    prompt: NDArray[np.int32]
    answer: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def read_samples(path: Path, limit: int | None = None) -> list[Sample]:
    """The samples of a file, at most `limit`. Raises as `samples_in`, of the whole file."""
    return list(samples_in(path))[:limit]


def samples_in(path: Path) -> Iterator[Sample]:
    """The samples of a file of JSON lines, or of one JSON array.

    A row has one of:

    - `prompt` and `completion`: texts, or both lists of messages (TRL);
    - `messages`, or ShareGPT's `conversations`: the last one is the answer;
    - `instruction`, `input` and `output` (Alpaca), with the turns of `history` before them;
    - `text`;
    - a task with its solution, in a format of `read_tasks`.

    A text in `system` becomes the first message.

    Raises:
        TaskError: the file cannot be read or holds no text, or a row has another format or keys that are not covered;
            the message names the file and the row.
    """
    where = None
    for where, row in read_rows(path):
        yield sample_of(row, where)
    if where is None:
        raise TaskError(f"{path}: holds no text")


def encode_samples(samples: Iterable[Sample], tokenizer: Tokenizer, context: int) -> list[Text]:
    """The ids of samples. Prompts go through the checkpoint's chat template where it has one.

    Special tokens in messages and completions are ordinary text. They are control tokens in a plain text, and in a
    prompt that begins with one: such a prompt is a rendered chat, and needs no template. An end token that closes a
    text or a completion is its end, so no second one is added.

    Raises:
        TaskError: a sample is longer than `context` tokens, has a single token, holds the mask token, or cannot be
            encoded; the message names the file and the row.
        CheckpointError: the chat template fails; the message names the file and the row.
    """
    return [text for _, text in encoded(samples, tokenizer, context)]


def encoded(samples: Iterable[Sample], tokenizer: Tokenizer, context: int) -> Iterator[tuple[Sample, Text]]:
    """`encode_samples` one after the other, each with its sample; a few samples are read ahead."""
    for group in _groups(_short(samples, tokenizer, context)):
        prompts = iter(_chat_prompts([sample for sample in group if _is_chat(sample, tokenizer)], tokenizer))
        for sample in group:
            prompt = next(prompts) if _is_chat(sample, tokenizer) else None
            yield sample, _encoded(sample, tokenizer, context, prompt)


def _short(samples: Iterable[Sample], tokenizer: Tokenizer, context: int) -> Iterator[Sample]:
    for sample in samples:
        if (least := sample.least_tokens(tokenizer)) > context:
            raise _too_long(sample.where, f"at least {least}", context)
        yield sample


def _groups(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples whose chats are rendered together: to ask the process that renders them can take longer than its work."""
    group, size = list[Sample](), 0
    for sample in samples:
        group.append(sample)
        size += sample.characters
        if len(group) == TOGETHER or size > MOST_CHARACTERS:
            yield group
            group, size = [], 0
    yield group


def _is_chat(sample: Sample, tokenizer: Tokenizer) -> bool:
    """Whether the prompt goes through the checkpoint's chat template."""
    if tokenizer.chat_template is None or not sample.messages:
        return False
    return not any(tokenizer.starts_with_special(message["content"]) for message in sample.messages)


def _chat_prompts(chats: list[Sample], tokenizer: Tokenizer) -> list[list[int]]:
    try:
        return tokenizer.encode_chats(sample.messages for sample in chats)
    except DiffucoderError:  # one by one, to name it; or they take too much memory together
        prompts = []
        for sample in chats:
            with _named(sample):
                prompts.append(tokenizer.encode_messages(sample.messages))
        return prompts


@contextmanager
def _named(sample: Sample) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:  # the template refuses these messages
        raise CheckpointError(f"{sample.where}: {error}") from None
    except DiffucoderError as error:
        raise TaskError(f"{sample.where}: {error}") from None


def _encoded(sample: Sample, tokenizer: Tokenizer, context: int, prompt: list[int] | None) -> Text:
    with _named(sample):
        prompt, answer = _prompt(sample, tokenizer) if prompt is None else prompt, _answer(sample, tokenizer)
    if not prompt:  # by the shift, no row predicts the first token
        prompt, answer = answer[:1], answer[1:]
    if not answer:
        raise TaskError(f"{sample.where}: is a single token; give at least two")
    if (length := len(prompt) + len(answer)) > context:
        raise _too_long(sample.where, str(length), context)
    return Text(np.array(prompt, dtype=np.int32), np.array(answer, dtype=np.int32))


def _too_long(where: str, length: str, context: int) -> TaskError:
    return TaskError(f"{where}: is {length} tokens long, but the model's context is {context}; shorten or remove it")


def _prompt(sample: Sample, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt that is no chat, or already rendered."""
    messages = sample.messages
    rendered = [message["role"] for message in messages if tokenizer.starts_with_special(message["content"])]
    if rendered and len(messages) > 1:
        raise TaskError(
            f"the {rendered[0]}'s message begins with a special token, as a rendered chat does; give the contents of the"
            " messages without it, or the whole chat as text"
        )
    if rendered:
        return _controlled(messages[0]["content"], tokenizer)
    return tokenizer.encode_plain("\n\n".join(message["content"] for message in messages))


def _answer(sample: Sample, tokenizer: Tokenizer) -> list[int]:
    """The ids of the answer with its end token, if the tokenizer has one."""
    text, end = tokenizer.split_end(sample.answer)
    answer = tokenizer.encode_plain(text) if sample.messages else _controlled(text, tokenizer)
    if not answer:
        raise TaskError("holds nothing before its end token")
    if end is None:
        end = tokenizer.end_id(chat=bool(sample.messages) and tokenizer.chat_template is not None)
    return answer if end is None else [*answer, end]


def _controlled(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a text in which special tokens are control tokens."""
    ids = tokenizer.encode(text)
    if tokenizer.mask_id in ids:
        raise TaskError("holds the mask token, which stands for a token that is not known yet; remove it")
    return ids
