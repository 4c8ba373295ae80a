"""Extract the program from an answer, as the benchmarks do."""

import re

from ..tasks import Task, defines

FENCE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)[ \t]*(?P<label>[^\n`]*)\n(?P<body>.*?)(?:^[ \t]*(?P=fence)[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
PYTHON = {"", "python", "python3", "py"}
# Stop sequences of completions, from the Codex paper (arXiv 2107.03374).
STOPS = re.compile(r"\n(?:class\b|def\b|#|if\b|print\b)")


def code_of(answer: str, task: Task) -> str:
    """The program in an answer; empty if it holds no code.

    This is the first non-empty fenced block that is not labelled as another language, or the whole answer
    if there is none. If the task is code to complete, an answer that defines the function is appended to
    the lines above the function in the task (imports, helpers). Any other answer is a completion: it is
    appended to the whole stub, up to the next statement at the left margin.

    Not covered: prose around code without a fence, which is a syntax error.
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
