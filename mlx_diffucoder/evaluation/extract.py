"""The program in an answer, taken as the benchmarks take it."""

import re

from ..tasks import Task, defines

FENCE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)[ \t]*(?P<label>[^\n`]*)\n(?P<body>.*?)(?:^[ \t]*(?P=fence)[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
PYTHON = {"", "python", "python3", "py"}
# Where a completion ends: the stop sequences of the Codex paper (arXiv 2107.03374).
STOPS = re.compile(r"\n(?:class\b|def\b|#|if\b|print\b)")


def code_of(answer: str, task: Task) -> str:
    """The program that an answer stands for; empty where there is no code in it.

    It is the first fenced block that holds anything and is not labelled as another language, and
    without such a block the whole answer. Where the task is code to be completed, an answer
    that defines the function is put behind what stands above the function in the task (imports,
    helpers), and one that does not is a completion: it is put behind the whole of it, up to where
    something new begins at the left margin.

    Not covered: prose around code that is not fenced; it is a syntax error, as it is to a reader
    who pastes the answer into a file.
    """
    blocks = [match for match in FENCE.finditer(answer) if match["body"].strip()]
    block = next((match["body"] for match in blocks if _label(match["label"]) in PYTHON), None)
    code = answer if block is None else block
    if not code.strip():
        return ""
    if task.stub is None or task.entry_point is None:
        return code
    if defines(code, task.entry_point):
        return _above(task.stub, task.entry_point) + code
    return task.stub + STOPS.split(code, maxsplit=1)[0] + "\n"


def _label(label: str) -> str:
    """```` ```python title="x" ```` -> `python`."""
    words = label.lower().split()
    return words[0].strip("{}.") if words else ""


def _above(stub: str, name: str) -> str:
    return re.split(rf"^(?:async\s+)?def\s+{re.escape(name)}\b", stub, maxsplit=1, flags=re.MULTILINE)[0]
