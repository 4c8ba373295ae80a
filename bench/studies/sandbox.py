"""What the sandbox costs an answer: the seconds of a program that passes, with and without it.

    python -m bench.studies.sandbox bench/tasks/functions.jsonl --limit 40

Each task's canonical solution runs with and without, one right after the other, in an order that alternates.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from mlx_diffucoder.evaluation import Limits, run_program
from mlx_diffucoder.tasks import read_tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--limit", type=int, default=40)
    given = parser.parse_args()
    every = [Limits(timeout=60, sandbox=mode) for mode in ("require", "off")]
    seconds: dict[str, list[float]] = {limits.sandbox: [] for limits in every}
    failed = []
    for task in read_tasks(given.tasks)[: given.limit]:
        for limits in every:
            start = time.perf_counter()
            if not run_program(task.solution or "", task.tests, limits).passed:
                failed.append(task.id)
            seconds[limits.sandbox].append(time.perf_counter() - start)
        every.reverse()
    (inside, with_it), (_, without) = sorted(seconds.items())
    cost = statistics.median(a - b for a, b in zip(with_it, without, strict=True))
    medians = {name: round(statistics.median(times), 4) for name, times in seconds.items()}
    print(json.dumps({"sandbox": inside, "seconds": medians, "cost": round(cost, 4), "failed": failed}))


if __name__ == "__main__":
    main()
