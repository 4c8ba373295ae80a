"""A row of a data set as a sample to train, calibrate or compare on.

The rows are those that data sets have: prompt and completion, chats (`messages`, ShareGPT's `conversations`), Alpaca's
instruction and output, plain `text`, and tasks with their solutions. Not covered: tool calls in chats, content that is
not text, and rows with a suffix.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import TaskError, did_you_mean
from .tasks import task_of, text_in
from .tokenizer import Tokenizer

Message = dict[str, str]

ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}
ROLES |= {role: role for role in ("system", "user", "assistant", "tool")}
"""The role of a message by the names that data sets give it."""
KNOWN = "prompt and completion, or messages, or text, or instruction and output, or is a task with a canonical_solution"
UNUSED = ("tools", "tool_calls", "function_call", "images")
"""Keys of rows and messages whose meaning is not covered. To leave them out would train on something else."""


@dataclass(frozen=True)
class Sample:
    """A row of a file: the messages of a chat (none for plain text), and the answer. `where` is its file and line."""

    where: str
    messages: tuple[Message, ...]
    answer: str

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """The fewest tokens that a text of this length can have. To encode one that is far too long takes minutes."""
        return self.characters // tokenizer.longest_token

    @property
    def characters(self) -> int:
        return len(self.answer) + sum(len(message["content"]) for message in self.messages)


def sample_of(row: dict[str, Any], where: str) -> Sample:
    """The sample of one row. Raises `TaskError`; the message begins with `where`."""
    row = {key: value for key, value in row.items() if value is not None}  # tables have a null for each absent column
    _check_covered(row, where)
    if chat := next((key for key in ("messages", "conversations") if key in row), None):
        return _chat(row, row[chat], chat, where)
    if isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list):
        prompt, completion = row.get("prompt"), row.get("completion")
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise TaskError(f"{where}: prompt and completion must both be texts, or both be lists of messages")
        return _chat(row, [*prompt, *completion], "prompt and completion", where)
    if "completion" in row:
        return _asked(row, text_in(row, "prompt", where), text_in(row, "completion", where), where)
    if "canonical_solution" in row or "test_list" in row:
        return _task(row, where)
    if {"instruction", "output"} <= row.keys():
        return _alpaca(row, where)
    if "text" in row:
        return Sample(where, (), text_in(row, "text", where))
    raise TaskError(f"{where}: not a known format{_renamed(row)}; a row has {KNOWN}")


def _check_covered(row: dict[str, Any], where: str) -> None:
    """Raise `TaskError` for what would be dropped in silence, and train on another text than the row's."""
    if unused := [key for key in UNUSED if row.get(key)]:
        raise TaskError(f"{where}: {unused[0]} cannot be trained on; remove such rows, or the key from them")
    if row.get("suffix"):
        raise TaskError(
            f"{where}: suffix cannot be trained on as it is; give prompt, completion and suffix together as text, and train"
            " with --infill, which makes holes in texts"
        )


PAIRS = (
    ("prompt", ("question", "query", "problem", "input", "instruction", "user", "prompt")),
    ("completion", ("answer", "response", "solution", "output", "assistant", "chosen", "code", "content")),
)
"""What data sets call a prompt and its completion, to say what to rename."""


def _renamed(row: dict[str, Any]) -> str:
    """What to rename in a row of unknown format, or the keys that it has."""
    found = [(to, next((name for name in names if isinstance(row.get(name), str)), None)) for to, names in PAIRS]
    if all(name for _, name in found):
        return ": rename " + " and ".join(f"{name} to {to}" for to, name in found if name != to)
    return f": it has {', '.join(key[:40] for key in [*row][:8]) or 'no keys'}"


def _task(row: dict[str, Any], where: str) -> Sample:
    task = task_of({key: value for key, value in row.items() if key != "suffix"}, where)  # it is empty
    if task.solution is None:
        raise TaskError(f"{where}: has no solution; add canonical_solution, or code for MBPP")
    # The prompt of a stub asks for a markdown code block.
    answer = task.solution if task.stub is None else f"```python\n{task.solution.strip()}\n```"
    return _asked({}, task.prompt, answer, where)


def _alpaca(row: dict[str, Any], where: str) -> Sample:
    more = text_in(row, "input", where, empty=True) if "input" in row else ""
    prompt = "\n\n".join(part for part in (text_in(row, "instruction", where), more) if part.strip())
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise TaskError(f"{where}: history must be a list of pairs, an instruction and its answer")
    before = [{"role": role, "content": text} for turn in history for role, text in zip(("user", "assistant"), turn, strict=True)]
    last = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text_in(row, "output", where)}]
    return _chat(row, [*before, *last], "history", where)


def _asked(row: dict[str, Any], prompt: str, answer: str, where: str) -> Sample:
    return Sample(where, (*_system(row, where), {"role": "user", "content": prompt}), answer)


def _chat(row: dict[str, Any], messages: Any, key: str, where: str) -> Sample:
    """A chat, whose last message is the answer."""
    if not isinstance(messages, list) or len(messages) < 2 or not all(isinstance(one, dict) for one in messages):
        raise TaskError(f"{where}: {key} must be a list of two or more objects with a role and a content")
    *before, last = (_message(one, f"{where}: {key}") for one in messages)
    if last["role"] != "assistant":
        raise TaskError(f"{where}: the last of {key} must be the assistant's, not the {last['role']}'s")
    system = [] if before[0]["role"] == "system" else _system(row, where)
    return Sample(where, (*system, *before), last["content"])


def _system(row: dict[str, Any], where: str) -> Iterable[Message]:
    """The message of a row's `system`, where it has one."""
    text = text_in(row, "system", where, empty=True) if "system" in row else ""
    return [{"role": "system", "content": text}] if text.strip() else []


def _message(given: dict[str, Any], where: str) -> Message:
    """A message, with `role` and `content`, or with ShareGPT's `from` and `value`."""
    role_key, content_key = ("from", "value") if "from" in given else ("role", "content")
    _check_covered({key: given[key] for key in UNUSED if key in given}, where)
    named = text_in(given, role_key, where)
    if named not in ROLES:
        raise TaskError(
            f"{where}: {role_key} {named[:40]!r} is not known{did_you_mean(named, ROLES)}; known are {', '.join(ROLES)}"
        )
    content = given.get(content_key)
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        given = {content_key: "".join(text_in(part, "text", where, empty=True) for part in content)}
    # An empty system message is what some templates need to leave out their own.
    return {"role": ROLES[named], "content": text_in(given, content_key, where, empty=ROLES[named] == "system")}
