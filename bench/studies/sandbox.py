"""What the sandbox costs an answer: the seconds of a program that passes, with and without it.

    python -m bench.studies.sandbox bench/tasks/functions.jsonl --limit 40

Each task's canonical solution runs with and without, one right after the other, in an order that alternates.
"""

import json
import statistics
import time
from pathlib import Path

import typer

from mlx_diffucoder.evaluation import Limits, run_program
from mlx_diffucoder.tasks import read_tasks


def main(tasks: Path, limit: int = 40) -> None:
    """Time programs with and without the sandbox."""
    inside, outside = (Limits(timeout=60, sandbox=mode) for mode in ("require", "off"))
    seconds: dict[str, list[float]] = {limits.sandbox: [] for limits in (inside, outside)}
    failed = []
    order = [inside, outside]
    for task in read_tasks(tasks)[:limit]:
        for limits in order:
            start = time.perf_counter()
            if not run_program(task.solution or "", task.tests, limits).passed:
                failed.append(task.id)
            seconds[limits.sandbox].append(time.perf_counter() - start)
        order.reverse()
    cost = statistics.median(a - b for a, b in zip(seconds[inside.sandbox], seconds[outside.sandbox], strict=True))
    medians = {name: round(statistics.median(times), 4) for name, times in seconds.items()}
    print(json.dumps({"sandbox": inside.sandbox, "seconds": medians, "cost": round(cost, 4), "failed": failed}))


if __name__ == "__main__":
    typer.run(main)
