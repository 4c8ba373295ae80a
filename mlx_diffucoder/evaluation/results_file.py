"""The file of a run's results, one JSON object a line, from which a stopped run goes on.

The first line says what the results are of. Lines are only ever added at the end; a line that a crash
left unfinished is cut off.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from ..checkpoint import weights_digest
from ..config import GenerationConfig
from ..errors import TaskError
from ..models.transformer import DiffusionModel
from ..tasks import Task
from .execute import FAILURES, PASSED, Limits
from .run import Result

FORMAT = 1


def identity(name: str, model: DiffusionModel, tasks: Iterable[Task], config: GenerationConfig, limits: Limits) -> dict[str, Any]:
    """What results must have in common to be put together: a file's first line.

    Neither the number of tasks taken from the file nor that of samples is in it: an answer depends on
    neither, so a run may be gone on with for more of both.
    """
    text = json.dumps([[task.id, task.prompt, task.stub, task.tests] for task in tasks])
    return {
        "diffucode_eval": FORMAT,
        "model": name,
        "weights": weights_digest(model),
        "tasks": hashlib.sha256(text.encode()).hexdigest(),
        "config": config.to_dict(),
        "limits": asdict(limits),
    }


class ResultsFile:
    """A results file that is being added to. `results` are those it had, in the file's order.

    Raises:
        TaskError: the file cannot be read or written, is none of results, has a broken line before
            its last, or holds results of something else; the message names the file and says which.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        self.path = path
        self.results: list[Result] = []
        header = json.dumps(identity, ensure_ascii=False).encode() + b"\n"
        try:
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if whole:
                self._read(whole.split(b"\n")[:-1], json.loads(header))
            elif not header.startswith(data):
                raise TaskError(f"{path}: not a results file of diffucode eval; name another one with --out")
            self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
            if not whole:
                self._write(header)
        except OSError as error:
            raise self._failed(error) from None

    def add(self, result: Result) -> None:
        """Write a result; it is in the file when this returns."""
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
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> TaskError:
        return TaskError(f"{self.path}: cannot be read and written ({error.strerror})")

    def _read(self, lines: list[bytes], wanted: dict[str, Any]) -> None:
        found = self._object(lines[0])
        if found is None or "diffucode_eval" not in found:
            raise TaskError(f"{self.path}: not a results file of diffucode eval; name another one with --out")
        if difference := _difference(found, wanted):
            raise TaskError(f"{self.path}: holds results of another run, {difference}; name another file with --out")
        for number, line in enumerate(lines[1:], start=2):
            row = self._object(line)
            if row is None or not _is_result(row):
                raise TaskError(f"{self.path}:{number}: not a result; remove the line, and its answer is made again")
            self.results.append(Result(**row))

    def _object(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return row if isinstance(row, dict) else None


def _is_result(row: dict[str, Any]) -> bool:
    if row.keys() != {field.name for field in fields(Result)} or row["kind"] not in (PASSED, *FAILURES):
        return False
    # JSON writes 2.0 for 2.0 and 2 for 2, so the types are those that were written.
    return all(type(row[field.name]) is field.type for field in fields(Result))


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> str:
    """The first thing that two identities do not share, in words; empty where they are the same."""
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _difference(old, new, f"{path}{key}."):
                return inner
        elif old != new:
            if key in ("weights", "tasks"):
                return f"whose {key} were others"
            return f"whose {path}{key} was {old!r} and not {new!r}"
    return ""
