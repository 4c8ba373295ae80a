"""Tasks solved and tiles a useful token, without and with a distilled adapter, by the rule and its tau.

    python -m bench.studies.distill ADAPTER bench/tasks/wide.jsonl bench/tasks/functions.jsonl --tau 0.95 --allow-code-execution

decodes each file by `tree:rows=32`, without and with the adapter, at each tau; 1 commits only what is verified. The
rows of the prompt in its first forward are not counted. Ends with one line of JSON. Not covered: answers in batches.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.decoding.result import TILE
from mlx_diffucoder.errors import ExecutionError

from .terminal import one_line


def main(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    files: Annotated[list[Path], typer.Argument(help="Files of tasks.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Its base.")] = "pocket",
    rule: Annotated[str, typer.Option(help="threshold or joint.")] = "threshold",
    tau: Annotated[list[float], typer.Option(help="Its tau; repeatable.")] = [0.95],  # noqa: B006
    max_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 64,
    limit: Annotated[int | None, typer.Option(help="Only so many tasks of each file.")] = None,
    skip_base: Annotated[bool, typer.Option("--skip-base", help="Only with the adapter.")] = False,
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="Run the model's code.")] = False,
) -> None:
    """Measure an adapter against its base."""
    with one_line("distill"):
        if not allow_code_execution:
            raise ExecutionError("this runs the model's code on this machine; if you accept that, add --allow-code-execution")
        rows = [
            row
            for chosen in ([adapter] if skip_base else [None, adapter])
            for row in measured(model, chosen, files, [f"{rule}:tau={one}" for one in tau], max_tokens, limit)
        ]
    print(json.dumps({"model": model, "adapter": str(adapter), "max_tokens": max_tokens, "rows": rows}))


def measured(
    model: str, adapter: Path | None, files: Sequence[Path], rules: Sequence[str], max_tokens: int, limit: int | None
) -> list[dict[str, Any]]:
    """A row of numbers for each file and rule."""
    from mlx_diffucoder import GenerationConfig, load
    from mlx_diffucoder.evaluation import evaluate
    from mlx_diffucoder.tasks import read_tasks

    network, tokenizer = load(model, dtype="float32", adapter=adapter)
    rows = []
    for file in files:
        tasks = read_tasks(file)[:limit]
        for rule in rules:
            began = time.perf_counter()
            config = GenerationConfig(max_tokens=max_tokens, seed=0, window="tree:rows=32", rule=rule)
            found = list(evaluate(network, tokenizer, tasks, config))
            useful = sum(one.useful_tokens for one in found)
            row = {
                "file": file.name,
                "adapter": adapter is not None,
                "rule": rule,
                "tasks": len(found),
                "passed": sum(one.passed for one in found),
                "tiles": sum(-(-rows // TILE) for one in found for rows in one.rows) / useful,
                "forwards": sum(one.nfe for one in found) / len(found),
                "seconds": time.perf_counter() - began,
            }
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    return rows


if __name__ == "__main__":
    typer.run(main)
