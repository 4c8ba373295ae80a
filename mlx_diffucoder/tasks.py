"""Task files: rows of HumanEval, HumanEval-infilling, MBPP and EvalPlus as `Task` objects.

Not covered: MBPP+ rows that have neither `test` nor `test_list`. JSON has turned their tuples and sets into lists, and
several need a special comparison. The export of MBPP+ with `test` works.
"""

import ast
import builtins
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import TaskError
from .evalplus import differential_tests
from .file_kinds import LARGEST, known_rows, read_bytes
from .formatting import format_bytes

# EvalPlus's prompt for instruction-tuned models, which DiffuCoder's published figures use. Their harnesses also write
# the first words of the answer; we do not.
INSTRUCTION = "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
# From the MBPP paper (arXiv 2108.07732). Only the tests name the function.
MBPP_TESTS = "Your code should pass these tests:"
LARGEST_ROW, LARGEST_ARRAY = 2**26, 2**28
"""Bytes of a row and of a JSON array, at most. As objects they can take many times as much memory."""
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A program to write, and the tests that tell whether it is right.

    Attributes:
        id: the task's id in the file; whole numbers become text.
        where: its file and line, for messages.
        prompt: the prompt for a chat model.
        stub: the code to complete (imports, signature, docstring), where there is some. A base model gets it as its
            prompt, and an answer without the function's head is appended to it.
        entry_point: the function's name; None where only the tests name it.
        tests: Python to run after the answer; it raises unless the answer is right.
        solution: a complete program that passes, where the file has one.
        suffix: of a hole to fill, the text after it; `prompt` is then the text before it. None for other tasks.
    """

    id: str
    where: str
    prompt: str
    tests: str
    stub: str | None = None
    entry_point: str | None = None
    solution: str | None = None
    suffix: str | None = None

    def prompt_for(self, *, raw: bool) -> str:
        """The prompt: with `raw` (no chat template) the code to complete, where there is some."""
        return self.stub if raw and self.stub is not None else self.prompt


def read_tasks(path: Path, *, infilling: bool = True) -> list[Task]:
    """The tasks of a JSONL file, in its order. Empty lines are skipped.

    Args:
        infilling: whether the caller can fill holes. All tasks of a file are holes, or none is.

    Raises:
        TaskError: the file cannot be read or holds no task; a line is not JSON, has an unknown format, is a hole that
            the caller cannot fill, or repeats an earlier `task_id`. The message names the file and the line.
    """
    tasks: dict[str, Task] = {}
    for where, row in read_rows(path):
        task = task_of(row, where)
        if task.suffix is not None and not infilling:
            raise TaskError(f"{where}: has a suffix, so it is a hole to fill, which only diffucode eval does")
        if tasks and (task.suffix is None) != (next(iter(tasks.values())).suffix is None):
            raise TaskError(f"{where}: a file has a suffix in every row or in none: infilling is a benchmark by itself")
        if task.id in tasks:
            raise TaskError(f"{where}: task_id {task.id!r} is already used in {tasks[task.id].where}")
        tasks[task.id] = task
    if not tasks:
        raise TaskError(f"{path}: holds no task")
    return list(tasks.values())


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with its file and line for messages: JSON lines, or one JSON array.

    Empty lines are skipped. A byte order mark, Windows line ends and gzip are accepted.

    Raises:
        TaskError: the file cannot be read, or a line or an item is not a JSON object.
    """
    data = read_bytes(path, TaskError)
    try:
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LARGEST + 1) if data.startswith(GZIP) else data
    except (OSError, EOFError, zlib.error):
        raise TaskError(f"{path}: a damaged gzip file") from None
    _check_size(str(path), len(data), LARGEST, "a file of rows", "split it")
    if what := known_rows(data):
        raise TaskError(f"{path}: {what}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if re.match(rb"\s*\[", data):
        _check_size(str(path), len(data), LARGEST_ARRAY, "a JSON array", "save it as JSON lines, one row a line")
        with _named(str(path)):
            for number, row in enumerate(_items(data.decode()), start=1):
                where = f"{path}: row {number}"
                yield where, _checked(row, where)
        return
    for number, line in enumerate(io.BytesIO(data), start=1):
        if line.strip():
            where = f"{path}:{number}"
            _check_size(where, len(line), LARGEST_ROW, "a row", "shorten or remove it")
            with _named(where):
                row = json.loads(line.decode("utf-8-sig"))
            yield where, _checked(row, where)


def _check_size(where: str, size: int, most: int, what: str, advice: str) -> None:
    if size > most:
        raise TaskError(f"{where}: has {format_bytes(size)}, and {what} may have at most {format_bytes(most)}; {advice}")


def _items(text: str) -> Iterator[Any]:
    """The items of a JSON array, one at a time: an object takes many times the memory of its text."""
    decode, after_blanks = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*(.?)")
    mark = after_blanks.search(text, text.index("[") + 1)
    while mark and mark[1] != "]":
        item, end = decode(text, mark.start(1))
        yield item
        mark = after_blanks.search(text, end)
        if mark and mark[1] == ",":
            mark = after_blanks.search(text, mark.end())
        elif mark and mark[1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, mark.start(1))
    if mark and text[mark.end() :].strip():
        raise json.JSONDecodeError("Extra data", text, mark.end())


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Turn an error of JSON or of UTF-8 into one that names the place."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise TaskError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise TaskError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise TaskError(f"{where}: not valid JSON ({error})") from None


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TaskError(f"{where}: holds a JSON {type(row).__name__}, not an object")
    return row


def task_of(row: Mapping[str, Any], where: str) -> Task:
    """The task of one row. Raises `TaskError`; the message begins with `where`."""
    if "test_list" in row:
        return _mbpp(row, where)
    if (
        "entry_point" in row
        and "complete_prompt" not in row
        and ("test" in row or {"canonical_solution", "base_input"} <= row.keys())
    ):
        return _human_eval(row, where) if row.get("suffix") is None else _infilling(row, where)
    raise TaskError(
        f"{where}: not a task of a known format: HumanEval rows have task_id, prompt, entry_point and test; MBPP rows have"
        " task_id, text or prompt, and test_list; EvalPlus rows have task_id, prompt, entry_point, canonical_solution and"
        " base_input"
    )


def _human_eval(row: Mapping[str, Any], where: str) -> Task:
    prompt, name = text_in(row, "prompt", where), text_in(row, "entry_point", where)
    if not name.isidentifier():
        raise TaskError(f"{where}: entry_point {name!r} is not a valid Python name")
    is_code = defines(prompt, name)
    body = text_in(row, "canonical_solution", where) if row.get("canonical_solution") is not None else None
    solution = prompt + body if is_code and body is not None and not defines(body, name) else body
    parts = [f"from answer import {name}"] if hasattr(builtins, name) else []
    if is_code:
        parts.append(_given(prompt, name))
    if "test" in row:
        parts.append(_calling(text_in(row, "test", where), name))
    if "base_input" in row and solution is not None:
        parts.append(_plus(row, where, name, solution))
    return Task(
        id=id_in(row, where),
        where=where,
        prompt=f"{INSTRUCTION}\n```python\n{prompt.strip()}\n```\n" if is_code else prompt,
        stub=prompt if is_code else None,
        entry_point=name,
        tests="\n\n".join(parts),
        solution=solution,
    )


def _infilling(row: Mapping[str, Any], where: str) -> Task:
    """A row of HumanEval-infilling (arXiv 2207.14255): a program with a hole between its prompt and its suffix."""
    task = _human_eval({key: row[key] for key in ("task_id", "prompt", "entry_point", "test") if key in row}, where)
    prompt, suffix, solution = row["prompt"], text_in(row, "suffix", where, empty=True), None
    if row.get("canonical_solution") is not None:
        solution = prompt + text_in(row, "canonical_solution", where, empty=True) + suffix
    return replace(task, prompt=prompt, stub=prompt, suffix=suffix, solution=solution)


def _given(stub: str, name: str) -> str:
    """What a task's code defines besides the function `name`. Its tests use that, whatever an answer makes of it.

    Classes are left out: an answer takes objects of its own.
    """
    for text in (stub, f"{stub}\n    pass\n"):
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            found = ast.parse(text).body
            kept = [node for node in found if not isinstance(node, ast.ClassDef) and getattr(node, "name", "") != name]
            return ast.unparse(ast.Module(kept, []))
    return ""


def _calling(test: str, name: str) -> str:
    """HumanEval's tests with the call of their `check`, also where the function itself has that name."""
    if name != "check":
        return f"{test}\n\ncheck({name})\n"
    return f"_diffucode_candidate = {name}\n\n{test}\n\ncheck(_diffucode_candidate)\n"


def _plus(row: Mapping[str, Any], where: str, name: str, solution: str) -> str:
    if str(row.get("task_id", "")).startswith("Mbpp/"):
        raise TaskError(f"{where}: an MBPP+ row has neither test nor test_list; use the export of MBPP+ that has them")
    inputs = [row["base_input"], row.get("plus_input") or []]
    if not all(isinstance(some, list) and all(isinstance(one, list) for one in some) for some in inputs):
        raise TaskError(f"{where}: base_input and plus_input must be lists of argument lists")
    atol = row.get("atol", 0)
    if isinstance(atol, bool) or not isinstance(atol, int | float) or not atol >= 0:
        raise TaskError(f"{where}: atol must be a number of 0 or more, not {atol!r}")
    return differential_tests(name, solution, [*inputs[0], *inputs[1]], atol)


def _mbpp(row: Mapping[str, Any], where: str) -> Task:
    text = text_in(row, "text" if "text" in row else "prompt", where)
    asserts = _lines(row, "test_list", where)
    if not asserts:
        raise TaskError(f"{where}: test_list is empty")
    setup = [text_in(row, "test_setup_code", where, empty=True)] if row.get("test_setup_code") else []
    imports = _lines(row, "test_imports", where) if row.get("test_imports") else []
    # MBPP+ has a program with more tests next to MBPP's list.
    tests = [text_in(row, "test", where)] if "test" in row else asserts
    return Task(
        id=id_in(row, where),
        where=where,
        prompt="\n".join([text.strip(), MBPP_TESTS, "", *asserts]),
        tests="\n".join([*imports, *setup, *tests]) + "\n",
        solution=text_in(row, "code", where) if "code" in row else None,
    )


def text_in(row: Mapping[str, Any], key: str, where: str, *, empty: bool = False) -> str:
    """The text of a key in a row. Raises `TaskError` where it is missing, not text, or blank (unless `empty`)."""
    if key not in row:
        raise TaskError(f"{where}: {key} is missing")
    value = row[key]
    if not isinstance(value, str):
        raise TaskError(f"{where}: {key} is a JSON {type(value).__name__}, not text")
    if not value.strip() and not empty:
        raise TaskError(f"{where}: {key} is empty")
    return value


def _lines(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = row[key]
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise TaskError(f"{where}: {key} is not a list of texts")
    return value


def id_in(row: Mapping[str, Any], where: str) -> str:
    value = row.get("task_id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise TaskError(f"{where}: task_id is {'missing' if value is None else repr(value)}; it must be text or a whole number")
    return str(value)


def defines(code: str, name: str) -> bool:
    """Whether code defines `name` at its top level, as a function, a class or a variable."""
    name = re.escape(name)
    return re.search(rf"^(?:(?:(?:async\s+)?def|class)\s+{name}\b|{name}\s*(?::[^=\n]+)?=(?!=))", code, re.MULTILINE) is not None
