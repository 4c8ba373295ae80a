"""Evaluation: answer tasks, run the answers in a separate process, compute pass@k."""

from ..statistics import confidence_interval, pass_at_k
from .execute import FAILURES, Limits, Outcome, run_program
from .extract import code_of
from .run import Result, Traces, evaluate
from .summary import Summary

__all__ = [
    "FAILURES",
    "Limits",
    "Outcome",
    "Result",
    "Summary",
    "Traces",
    "code_of",
    "confidence_interval",
    "evaluate",
    "pass_at_k",
    "run_program",
]
