"""Tasks, programs and results that several tests of the evaluation share."""

from pathlib import Path

from mlx_diffucoder.evaluation import Limits, Result
from mlx_diffucoder.tasks import Task

FUNCTIONS = Path(__file__).parents[2] / "bench" / "tasks" / "functions.jsonl"
SHORT = Limits(timeout=0.7, memory=256)
LONG = Limits(timeout=20, memory=512)

STUB = 'from typing import List\n\ndef helper(x):\n    return x\n\ndef f(xs: List[int]) -> int:\n    """Sum."""\n'
PLAIN = Task(id="p", where="t:1", prompt="Write f.", tests="assert f([1, 2]) == 3", entry_point="f")

RIGHT = "def f(x):\n    return x\n"
TESTS = "def check(candidate):\n    assert candidate(1) == 1\n\ncheck(f)\n"

HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": STUB,
    "entry_point": "f",
    "canonical_solution": "    return sum(xs)\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
}


def result(task="a", sample=0, kind="passed", **numbers):
    values = {"nfe": 2, "positions": 60, "useful_tokens": 6, "unresolved_masks": 1, "seconds": 0.5, "peak_memory_bytes": 7}
    return Result(task_id=task, sample=sample, kind=kind, detail="", answer="x", **(values | numbers))
