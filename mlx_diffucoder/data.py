"""Files of texts, one JSON object a line, as the ids of a prompt and of what was answered.

Of a task file the prompts and the solutions are taken. Not covered: conversations' tool calls, and
content that is not text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError, DiffucoderError, TaskError
from .tasks import read_rows, task_of, text_in
from .tokenizer import Tokenizer

HELD_OUT = Path(__file__).with_name("texts.jsonl")
"""80 small Python functions and the English that asks for them: the unseen ones of `bench/tasks/functions.jsonl`."""

Message = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """A row of a file: what was asked, as a chat (empty where nothing was), and what was answered."""

    where: str
    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Text:
    """A sample in a tokenizer's ids; the prompt has at least one and is never masked, the answer has its end token."""

    where: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def read_samples(path: Path, limit: int | None = None) -> list[Sample]:
    """The samples of a JSONL file, at most `limit`.

    A row has `prompt` and `completion`; or `messages`, of which the last is the answer; or is a task
    with its solution, as `read_tasks` reads them; or has a `text`.

    Raises:
        TaskError: the file cannot be read or holds no text, or a line is none of these; the message
            names file and line.
    """
    samples = [_sample(row, where) for where, row in read_rows(path)][:limit]
    if not samples:
        raise TaskError(f"{path}: holds no text")
    return samples


def encode_samples(samples: Sequence[Sample], tokenizer: Tokenizer, context: int) -> list[Text]:
    """The ids of samples, prompts by the checkpoint's chat template, or as they are where it has none.

    Raises:
        TaskError: a sample is longer than `context`, too short to mask a token of it, or cannot be
            encoded; the message names file and line.
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
    except CheckpointError as error:  # its template refuses these messages
        raise CheckpointError(f"{sample.where}: {error}") from None
    except DiffucoderError as error:
        raise TaskError(f"{sample.where}: {error}") from None
    if not prompt:  # the shift: the first token of a canvas is predicted by none
        prompt, answer = answer[:1], answer[1:]
    if not answer:
        raise TaskError(f"{sample.where}: is a single token; there must be one before those that are masked")
    if (length := len(prompt) + len(answer)) > context:
        raise TaskError(f"{sample.where}: is {length} tokens long, and the model's context {context}; shorten or remove it")
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
            raise TaskError(f"{where}: has no solution (canonical_solution, or MBPP's code) that could be masked")
        # A stub is asked for in a markdown code block.
        answer = task.solution if task.stub is None else f"```python\n{task.solution.strip()}\n```"
        return _asked(task.prompt, answer, where)
    if "text" in row:
        return Sample(where, (), text_in(row, "text", where))
    raise TaskError(
        f"{where}: not a text of a known format: rows have prompt and completion, or messages, or text, or are tasks with a"
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
