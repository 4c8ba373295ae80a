"""The results file of a run: JSON lines from which a stopped run continues.

The first line identifies the run. Lines are only appended; a line that a crash left incomplete is cut off.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, get_origin

from ..checkpoint import weights_digest
from ..config import GenerationConfig
from ..errors import TaskError
from ..files import json_object, open_locked
from ..models.transformer import DiffusionModel
from ..tasks import Task
from .execute import FAILURES, PASSED, Limits
from .extract import EXTRACTION
from .run import Result

FORMAT = 1


def identity(answers: Mapping[str, Any], tasks: Iterable[Task], limits: Limits, *, extract: bool = True) -> dict[str, Any]:
    """The first line of a results file: everything that its results must share.

    The number of tasks and the number of samples are not in it. No answer depends on them, so a run may
    continue with more of both.

    Args:
        answers: where they come from, as `of_model` or `of_file` say it.
        extract: whether the code is looked for in an answer.
    """
    parts = [[task.id, task.prompt, task.stub, task.tests, task.suffix] for task in tasks]
    text = json.dumps([part if part[-1] is not None else part[:-1] for part in parts])
    return {
        "diffucode_eval": FORMAT,
        **answers,
        "tasks": hashlib.sha256(text.encode()).hexdigest(),
        "limits": asdict(limits),
        "extraction": EXTRACTION if extract else None,
    }


def of_model(name: str, model: DiffusionModel, config: GenerationConfig) -> dict[str, Any]:
    """What answers of one model share."""
    return {"model": name, "weights": weights_digest(model), "config": config.to_dict()}


def of_file(path: Path) -> dict[str, Any]:
    """What answers from one file share."""
    return {"samples": hashlib.sha256(path.read_bytes()).hexdigest()}


def check_results_file(path: Path) -> None:
    """Raise `TaskError`, before a model is loaded, if a results file cannot be written or another run is writing it."""
    try:
        there, folder = path.exists(), path.parent.is_dir()
    except OSError as error:  # the name is too long
        raise _failed(path, error) from None
    if there:
        _opened(path).close()
    elif not folder:
        raise TaskError(f"{path}: its folder does not exist; choose another file with --out")


class ResultsFile:
    """A results file open for appending. `results` holds the ones it already had, in file order.

    It is locked until it is closed: a second run that appended to it would mix its lines with this one's.

    Raises:
        TaskError: the file cannot be read or written, is not a results file, has a broken line before its
            last, holds results of another run, or is being written by another one. The message names the file and
            the reason.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        self.path = path
        self.results: list[Result] = []
        header = json.dumps(identity, ensure_ascii=False).encode() + b"\n"
        self._file = _opened(path)
        try:
            self._begin(header)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, header: bytes) -> None:
        """Read what the file holds, and go to its end."""
        try:
            data = self._file.read()
            whole = data[: data.rfind(b"\n") + 1]
            if whole:
                self._read(whole.split(b"\n")[:-1], json.loads(header))
            elif not header.startswith(data):
                raise TaskError(
                    f"{self.path}: not a results file of diffucode eval; remove it, or choose another file with --out"
                )
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
            if not whole:
                self._write(header)
        except OSError as error:
            raise _failed(self.path, error) from None

    def add(self, result: Result) -> None:
        """Append a result. It is in the file when this returns."""
        self._write(json.dumps(result.to_dict(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise _failed(self.path, error) from None

    def _read(self, lines: list[bytes], wanted: dict[str, Any]) -> None:
        found = json_object(lines[0])
        if found is None or "diffucode_eval" not in found:
            raise TaskError(f"{self.path}: not a results file of diffucode eval; remove it, or choose another file with --out")
        if difference := _difference(found, wanted):
            raise TaskError(
                f"{self.path}: holds results of another run, {difference}; remove it, or choose another file with --out"
            )
        for number, line in enumerate(lines[1:], start=2):
            row = json_object(line)
            if row is None or not _is_result(row):
                raise TaskError(f"{self.path}:{number}: not a result; remove the line, and the answer is generated again")
            self.results.append(Result(**row))


def _opened(path: Path) -> BinaryIO:
    try:
        return open_locked(path)
    except BlockingIOError:
        raise TaskError(f"{path}: another eval is writing it; wait for it, or choose another file with --out") from None
    except OSError as error:
        raise _failed(path, error) from None


def _failed(path: Path, error: OSError) -> TaskError:
    return TaskError(f"{path}: cannot be read or written ({error.strerror}); choose another file with --out")


def _is_result(row: dict[str, Any]) -> bool:
    if row.keys() != {field.name for field in fields(Result)} or row["kind"] not in (PASSED, *FAILURES):
        return False
    # JSON keeps 2.0 and 2 apart, so the types are those that were written.
    types = {field.name: get_origin(field.type) or field.type for field in fields(Result)}
    return all(type(row[name]) is kind for name, kind in types.items()) and all(type(one) is int for one in row["rows"])


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> str:
    """The first difference between two identities, in words; empty if they are equal."""
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _difference(old, new, f"{path}{key}."):
                return inner
        elif old != new:
            if key in ("weights", "tasks", "samples"):
                return f"with other {key}"
            return f"with {path}{key} {old!r} instead of {new!r}"
    return ""
