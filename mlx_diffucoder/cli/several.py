"""`diffucode generate` with `-n` or `--lock`: several answers to choose from, or a template to fill."""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import HOLES, PRESETS, GenerationConfig
from ..errors import ConfigError, ExecutionError, TaskError
from .terminal import print_numbers

if TYPE_CHECKING:
    from ..best_of import Ranked
    from ..decoding.result import Stats
    from ..models.transformer import DiffusionModel
    from ..tasks import Task
    from ..tokenizer import Tokenizer


@dataclass(frozen=True)
class Choice:
    """What is asked for besides one answer.

    Attributes:
        count: answers in the batch.
        rank: print the best alone.
        tests: a file; the first answer that passes it is the best.
        lock: a template.
    """

    count: int
    rank: bool
    tests: Path | None
    lock: Path | None

    def __bool__(self) -> bool:
        return self.count > 1 or self.rank or self.tests is not None or self.lock is not None

    def check(self, *, allow_code_execution: bool) -> None:
        """Raises `ConfigError` or `ExecutionError` where flags do not go together."""
        if self.lock is not None and (self.count > 1 or self.rank or self.tests is not None):
            raise ConfigError("--lock fills one template; -n, --rank and --tests are for answers")
        if self.tests is not None and not allow_code_execution:
            raise ExecutionError(
                "--tests runs the code that the model writes on this machine, as you, within limits of time and memory but in"
                " no sandbox; if you accept that, add --allow-code-execution"
            )


class Several:
    """One run: what it prints, its numbers, and the file that its steps are written into, where one is named."""

    def __init__(
        self,
        model: "DiffusionModel",
        tokenizer: "Tokenizer",
        name: str,
        config: GenerationConfig,
        choice: Choice,
        trace: Path | None = None,
    ):
        self.model, self.tokenizer, self.name, self.config, self.choice = model, tokenizer, name, config, choice
        self.trace = trace

    def go(self, prompt: str, *, as_json: bool, verbose: bool) -> int:
        """Generate, choose and print; returns the exit code."""
        task = task_of(self.choice.tests, prompt) if self.choice.tests else None
        rows, stats = self._answers(prompt, task)
        failed = rows[0].get("passed") is False
        if as_json:
            print(json.dumps({"answers": rows, **self._about(stats)}, ensure_ascii=False))
        elif failed:
            raise ExecutionError(
                f"none of the {len(rows)} answers passes {self.choice.tests}; -n asks for more, --json shows them"
            )
        elif self.choice.rank or task is not None:
            print(rows[0]["text"].removesuffix("\n"))
        else:
            for place, row in enumerate(rows, start=1):
                canvas = f", canvas {row['canvas']}" if self.trace else ""
                head = f"{'' if place == 1 else chr(10)}# answer {place}{canvas}, mean log-probability {row['score']:.3g}\n"
                print(head + row["text"].removesuffix("\n"))
        if verbose:
            print_numbers(stats.lines())
        return 1 if failed else 0

    def _answers(self, prompt: str, task: "Task | None") -> "tuple[list[dict[str, Any]], Stats]":
        """The answers as `--json` has them, those that pass before the others, and what they took."""
        from ..best_of import ranked
        from ..generation import prompt_ids
        from ..trace.writer import recording
        from .progress import waiting

        ids = prompt_ids(self.model, self.tokenizer, prompt, self.config)
        start = time.perf_counter()
        with recording(self.trace, self.tokenizer, self.config, self.name) as record:
            with waiting(f"writing {self.choice.count} answers"):
                ranking = ranked(self.model, self.tokenizer, ids, self.config, self.choice.count, record)
            seconds = time.perf_counter() - start
            with waiting("running the tests"):
                rows = [_row(one, _passes(one, task) if task else None) for one in ranking.answers]
            # Sorting keeps the order of score among those that pass and those that do not.
            rows.sort(key=lambda row: row.get("passed") is False)
            if record and rows[0].get("passed") is not False:
                record.kept = rows[0]["canvas"]
        useful = sum(one.answer.useful_tokens for one in ranking.answers)
        return rows, self._stats(ranking.nfe, ranking.positions, useful, seconds)

    def fill(self, prompt: str, *, as_json: bool, verbose: bool) -> int:
        """Fill the template, the prompt before it, and print it; returns the exit code."""
        from ..infilling.file import cut, named, read_bytes
        from ..infilling.fill import fill
        from ..trace.writer import recording
        from .progress import waiting

        path = self.choice.lock or Path()
        source = cut(str(path), read_bytes(path), "<FILL>", None, None)
        # The window that shows all of a hole and what is behind it, unless another was asked for.
        usual = self.config.window == PRESETS["balanced"]["window"]
        config = replace(self.config, window=HOLES["window"]) if usual else self.config
        start = time.perf_counter()
        with waiting("filling"), named(source.name), recording(self.trace, self.tokenizer, config, self.name) as record:
            filled = fill(self.model, self.tokenizer, source.parts, config, instruction=prompt, record=record)
        stats = self._stats(filled.nfe, filled.positions, filled.useful_tokens, time.perf_counter() - start)
        after = source.filled(filled.holes)
        if as_json:
            text = after.decode(source.encoding)
            print(
                json.dumps({"text": text, "holes": filled.holes, "score": filled.score, **self._about(stats)}, ensure_ascii=False)
            )
        else:
            sys.stdout.buffer.write(after)
            sys.stdout.buffer.flush()
        if verbose:
            print_numbers(stats.lines())
        return 0

    def _stats(self, nfe: int, positions: int, useful: int, seconds: float) -> "Stats":
        import mlx.core as mx

        from ..decoding.result import Stats

        return Stats(nfe=nfe, positions=positions, useful_tokens=useful, seconds=seconds, peak_memory_bytes=mx.get_peak_memory())

    def _about(self, stats: "Stats") -> dict[str, Any]:
        return {"model": self.name, **stats.to_dict(), "config": self.config.to_dict()}


def _row(one: "Ranked", passed: bool | None) -> dict[str, Any]:
    answer = one.answer
    row = {"text": answer.text, "score": one.score, "useful_tokens": answer.useful_tokens, "canvas": one.row}
    row["finish_reason"] = "stop" if answer.ended else "length"
    return row if passed is None else {**row, "passed": passed}


def task_of(path: Path, prompt: str) -> "Task":
    """The tests of a file of Python, or of a task file that holds one.

    Raises:
        TaskError: the file cannot be read, or holds no test or several tasks.
    """
    from ..tasks import Task, read_tasks

    if path.suffix in (".jsonl", ".json"):
        tasks = read_tasks(path)
        if len(tasks) > 1:
            raise TaskError(f"{path}: holds {len(tasks)} tasks; give a file of one")
        return tasks[0]
    try:
        tests = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise TaskError(f"{path}: not UTF-8 text") from None
    if not tests.strip():
        raise TaskError(f"{path}: is empty; write Python that raises unless the answer is right, asserts for example")
    return Task(id=str(path), where=str(path), prompt=prompt, tests=tests)


def _passes(one: "Ranked", task: "Task") -> bool:
    from ..evaluation import Limits, code_of, run_program

    code = code_of(one.answer.text, task)
    return bool(code) and run_program(code, task.tests, Limits()).passed
