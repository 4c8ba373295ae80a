"""Compare infilling holes in canonical solutions with continuing the text before the hole.

    python -m bench.studies.infill bench/tasks/functions.jsonl bench/tasks/wide.jsonl -m pocket --allow-code-execution

The middle line of each solution's body is removed, and its length is not given. The model infills it, seeing the true text
on both sides. For comparison it continues the text before the hole, with as many masks. That answer is run twice: as it is,
and with only its first line, followed by the true text after the hole. Then several lines are removed at once. Solutions
with lines on both sides of the hole come first; with the two files above, all hundred that are used are such. By default
the model sees only the code; with `--instruction` the task's prompt, too. Ends with one line of JSON.

Not covered: holes inside a line.
"""

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_diffucoder.config import HOLES, GenerationConfig
from mlx_diffucoder.errors import ExecutionError, TaskError

from .terminal import one_line

if TYPE_CHECKING:
    from mlx_diffucoder.infilling.fill import Filled
    from mlx_diffucoder.models.transformer import DiffusionModel
    from mlx_diffucoder.tasks import Task
    from mlx_diffucoder.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bench:
    """A model with its decoding configuration."""

    model: "DiffusionModel"
    tokenizer: "Tokenizer"
    config: GenerationConfig
    instruction: bool
    tries: int

    def fill(self, task: "Task", parts: list[str | int | None]) -> "Filled":
        from mlx_diffucoder.infilling.fill import fill

        asked = task.prompt if self.instruction else None
        return fill(self.model, self.tokenizer, parts, self.config, instruction=asked, tries=self.tries)

    def write_on(self, task: "Task", prefix: str) -> str:
        """The model's continuation of `prefix`, without the text after the hole."""
        from dataclasses import replace

        from mlx_diffucoder.generation import generate

        prompt = self.tokenizer.encode_chat(task.prompt) if self.instruction else []
        config = replace(self.config, window="whole")
        return generate(self.model, self.tokenizer, [*prompt, *self.tokenizer.encode_plain(prefix)], config)

    def passes(self, task: "Task", code: str) -> bool:
        return passes_with(task, code)


def passes_with(task: "Task", code: str) -> bool:
    """Whether a program passes a task's tests."""
    from mlx_diffucoder.evaluation import Limits, run_program

    return run_program(code, task.tests, Limits()).passed


def body(task: "Task") -> tuple[list[str], int]:
    """The lines of a solution, and the first one of its function's body."""
    lines = (task.solution or "").splitlines(keepends=True)
    tree = ast.parse(task.solution or "")
    last = next(node for node in reversed(tree.body) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return lines, last.body[0].lineno - 1


def chosen(tasks: "list[Task]", limit: int) -> "list[Task]":
    """Tasks with lines on both sides of the hole first, then the others, each in file order."""
    known = [task for task in tasks if task.solution and task.solution.endswith("\n")]
    if not known:
        raise TaskError("no task has a canonical_solution that ends with a newline")
    return sorted(known, key=lambda task: lines_around(task) < 3)[:limit]


def lines_around(task: "Task") -> int:
    lines, first = body(task)
    return len(lines) - first


def middle(bench: Bench, task: "Task") -> dict[str, Any]:
    """Remove one line: infill it, and continue the text before it."""
    lines, first = body(task)
    hole = first + (len(lines) - first) // 2 if len(lines) - first > 1 else first
    hole = min(hole, len(lines) - 1)
    prefix, line, suffix = "".join(lines[:hole]), lines[hole], "".join(lines[hole + 1 :])
    filled = bench.fill(task, [prefix, None, "\n" + suffix])
    written = bench.write_on(task, prefix)
    return {
        "task_id": task.id,
        "both_sides": lines_around(task) >= 3,
        "line": line.removesuffix("\n"),
        "filled": filled.holes[0],
        "exact": filled.holes[0] + "\n" == line,
        "agreed": filled.agreed,
        "passed": bench.passes(task, prefix + filled.holes[0] + "\n" + suffix),
        "prefix_passed": bench.passes(task, prefix + written),
        "prefix_line_passed": bench.passes(task, prefix + written.split("\n")[0] + "\n" + suffix),
        **cost_of(filled),
    }


def cost_of(filled: "Filled") -> dict[str, int]:
    """What the text took; `tiles` of `TILE` rows, without those of the text around the hole in the first forward."""
    from mlx_diffucoder.decoding.result import TILE

    tiles = sum(-(-rows // TILE) for rows in filled.rows)
    return {"nfe": filled.nfe, "positions": filled.positions, "tiles": tiles, "useful_tokens": filled.useful_tokens}


def several(bench: Bench, task: "Task", count: int) -> dict[str, Any] | None:
    """Remove every second line of the body, at most `count`, and infill them together; None if there are fewer than two."""
    lines, first = body(task)
    holes = list(range(first + 1, len(lines) - 1, 2))[:count]
    if len(holes) < 2:
        return None
    parts: list[str | int | None] = [""]
    for number, line in enumerate(lines):
        if number in holes:
            parts += [None, "\n"]
        else:
            parts[-1] = str(parts[-1]) + line
    filled = bench.fill(task, parts)
    texts = iter(filled.holes)
    code = "".join(part if isinstance(part, str) else next(texts) for part in parts)
    return {
        "task_id": task.id,
        "holes": filled.holes,
        "valid": is_python(code),
        "passed": bench.passes(task, code),
        **cost_of(filled),
    }


def is_python(code: str) -> bool:
    try:
        compile(code, "filled.py", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def main(
    tasks: Annotated[list[Path], typer.Argument(help="Task files with canonical solutions.")],
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option(help="The dtype to compute in.")] = "float32",
    max_tokens: Annotated[int, typer.Option(help="The longest hole.")] = HOLES["max_tokens"],
    limit: Annotated[int, typer.Option(min=1, help="Use this many tasks.")] = 100,
    tries: Annotated[int, typer.Option(min=1, help="As for diffucode infill.")] = 8,
    window: Annotated[str, typer.Option(help="The window.")] = HOLES["window"],
    instruction: Annotated[bool, typer.Option("--instruction", help="Show the model the task's prompt, too.")] = False,
    several_holes: Annotated[int, typer.Option("--several", min=2, help="The most holes at once.")] = 3,
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the JSON, with every hole.")] = False,
) -> None:
    """Measure infilling of holes in solutions."""
    with one_line("infill"):
        if not allow_code_execution:
            raise ExecutionError("this runs code that the model writes; add --allow-code-execution to accept that")
        from mlx_diffucoder.loading import load
        from mlx_diffucoder.tasks import read_tasks

        some = chosen([task for file in tasks for task in read_tasks(file)], limit)
        config = GenerationConfig(max_tokens=max_tokens, window=window, seed=0)
        bench = Bench(*load(model, dtype=dtype), config, instruction, tries)
        say: Callable[[str], None] = (lambda line: None) if as_json else (lambda line: print(line, flush=True))
        ones = list(_told(say, (middle(bench, task) for task in some)))
        together = [found for task in some if (found := several(bench, task, several_holes))]
        report = {"model": model, "dtype": dtype, "instruction": instruction, "tries": tries, "config": config.to_dict()}
        report |= summary(ones, together)
        for key in ("one", "one_with_lines_on_both_sides", "several"):
            say(f"{key}: {json.dumps(report[key])}")
        if as_json:
            report |= {"rows": ones, "several_rows": together}
    print(json.dumps(report))


def _told(say: Callable[[str], None], rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        say(
            f"{row['task_id']:16} {'passed' if row['passed'] else 'failed'}  {row['line'].strip()!r} -> {row['filled'].strip()!r}"
        )
        yield row


def summary(ones: list[dict[str, Any]], together: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers, over all tasks and over those with lines on both sides of the hole."""
    report: dict[str, Any] = {}
    for name, rows in (("one", ones), ("one_with_lines_on_both_sides", [row for row in ones if row["both_sides"]])):
        counts = {
            key: sum(row[key] for row in rows) for key in ("passed", "prefix_passed", "prefix_line_passed", "exact", "agreed")
        }
        report[name] = {"tasks": len(rows), **counts, **mean_cost(rows)}
    report["several"] = {
        "tasks": len(together),
        "valid_python": sum(row["valid"] for row in together),
        "passed": sum(row["passed"] for row in together),
        **mean_cost(together),
    }
    return report


def mean_cost(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Forwards a text; positions and tiles a useful token."""
    useful = sum(row["useful_tokens"] for row in rows)
    costs = ("positions", "tiles")
    per_token = {f"{name}_per_useful_token": sum(row[name] for row in rows) / useful if useful else None for name in costs}
    return {"nfe": mean(row["nfe"] for row in rows) if rows else None, **per_token}


if __name__ == "__main__":
    typer.run(main)
