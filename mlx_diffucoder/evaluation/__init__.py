"""How good an answer is: task files, answers run in a process of their own, pass@k.

And how far one network's distributions are from another's, at the masked positions of the same canvases.
"""

from .divergence import Divergence, NotANumber, Reading, readings
from .execute import FAILURES, Limits, Outcome, run_program
from .extract import code_of
from .forwards import Outputs, outputs, outputs_by_layer
from .masking import Masked, masked_canvases
from .run import Result, Traces, evaluate
from .scores import confidence_interval, pass_at_k
from .summary import Summary
from .tasks import Task, read_tasks
from .texts import HELD_OUT, Sample, Text, encode_samples, read_samples

__all__ = [
    "FAILURES",
    "HELD_OUT",
    "Divergence",
    "Limits",
    "Masked",
    "NotANumber",
    "Outcome",
    "Outputs",
    "Reading",
    "Result",
    "Sample",
    "Summary",
    "Task",
    "Text",
    "Traces",
    "code_of",
    "confidence_interval",
    "encode_samples",
    "evaluate",
    "masked_canvases",
    "outputs",
    "outputs_by_layer",
    "pass_at_k",
    "read_samples",
    "read_tasks",
    "readings",
    "run_program",
]
