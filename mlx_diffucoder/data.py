"""Files of texts to train, calibrate or compare on: JSONL rows, and their token ids.

Task files serve too, with their solutions as answers. Not covered: tool calls in conversations, and content that is
not text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError, DiffucoderError, TaskError
from .tasks import read_rows, task_of, text_in
from .tokenizer import Tokenizer

HELD_OUT = Path(__file__).with_name("texts.jsonl")
"""80 small Python functions with prompts in English: the unseen tasks of `bench/tasks/functions.jsonl`."""

Message = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """A row of a file: the messages of a chat (none for plain text), and the answer. `where` is its file and line."""

    where: str
    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Text:
    """The ids of a sample. The prompt has at least one id and is never masked; the answer ends with its end token."""

    where: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def read_samples(path: Path, limit: int | None = None) -> list[Sample]:
    """The samples of a JSONL file, at most `limit`.

    A row has `prompt` and `completion`; or `messages`, the last of which is the answer; or a `text`; or it is a task
    with its solution, in a format of `read_tasks`.

    Raises:
        TaskError: the file cannot be read or holds no text, or a line has another format; the message names the
            file and the line.
    """
    samples = [_sample(row, where) for where, row in read_rows(path)][:limit]
    if not samples:
        raise TaskError(f"{path}: holds no text")
    return samples


def encode_samples(samples: Sequence[Sample], tokenizer: Tokenizer, context: int) -> list[Text]:
    """The ids of samples. Prompts go through the checkpoint's chat template where it has one.

    Raises:
        TaskError: a sample is longer than `context` tokens, has a single token, or cannot be encoded; the message
            names the file and the line.
    """
    return [_encoded(sample, tokenizer, context) for sample in samples]


def _encoded(sample: Sample, tokenizer: Tokenizer, context: int) -> Text:
    chat = bool(sample.messages) and tokenizer.chat_template is not None
    end = tokenizer.end_id(chat=chat)
    try:
        if chat:
            prompt = tokenizer.encode_messages(sample.messages)
        else:
            prompt = tokenizer.encode_plain("\n\n".join(message["content"] for message in sample.messages))
        answer = tokenizer.encode_plain(sample.answer) + ([end] if end is not None else [])
    except CheckpointError as error:  # the template refuses these messages
        raise CheckpointError(f"{sample.where}: {error}") from None
    except DiffucoderError as error:
        raise TaskError(f"{sample.where}: {error}") from None
    if not prompt:  # by the shift, no row predicts the first token
        prompt, answer = answer[:1], answer[1:]
    if not answer:
        raise TaskError(f"{sample.where}: is a single token; give at least two")
    if (length := len(prompt) + len(answer)) > context:
        raise TaskError(f"{sample.where}: is {length} tokens long, but the model's context is {context}; shorten or remove it")
    return Text(sample.where, tuple(prompt), tuple(answer))


def _sample(row: dict[str, Any], where: str) -> Sample:
    if "messages" in row:
        *before, last = _messages(row["messages"], where)
        return Sample(where, tuple(before), last["content"])
    if "completion" in row:
        return _asked(text_in(row, "prompt", where), text_in(row, "completion", where), where)
    if "canonical_solution" in row or "test_list" in row:
        task = task_of(row, where)
        if task.solution is None:
            raise TaskError(f"{where}: has no solution; add canonical_solution, or code for MBPP")
        # The prompt of a stub asks for a markdown code block.
        answer = task.solution if task.stub is None else f"```python\n{task.solution.strip()}\n```"
        return _asked(task.prompt, answer, where)
    if "text" in row:
        return Sample(where, (), text_in(row, "text", where))
    raise TaskError(
        f"{where}: not a known format; a row has prompt and completion, or messages, or text, or is a task with a"
        " canonical_solution"
    )


def _asked(prompt: str, answer: str, where: str) -> Sample:
    return Sample(where, ({"role": "user", "content": prompt},), answer)


def _messages(messages: Any, where: str) -> list[Message]:
    if not isinstance(messages, list) or len(messages) < 2 or not all(isinstance(one, dict) for one in messages):
        raise TaskError(f"{where}: messages must be a list of two or more objects with a role and a content")
    read = [{key: text_in(message, key, f"{where}: messages") for key in ("role", "content")} for message in messages]
    if read[-1]["role"] != "assistant":
        raise TaskError(f"{where}: the last of messages must be the assistant's, not the {read[-1]['role']}'s")
    return read
