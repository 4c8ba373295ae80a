"""How good an answer is: task files, answers run in a process of their own, pass@k."""

from .execute import FAILURES, Limits, Outcome, run_program
from .extract import code_of
from .run import Result, evaluate
from .scores import confidence_interval, pass_at_k
from .summary import Summary
from .tasks import Task, read_tasks

__all__ = [
    "FAILURES",
    "Limits",
    "Outcome",
    "Result",
    "Summary",
    "Task",
    "code_of",
    "confidence_interval",
    "evaluate",
    "pass_at_k",
    "read_tasks",
    "run_program",
]
