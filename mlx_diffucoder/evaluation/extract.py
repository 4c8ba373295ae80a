"""Extract the program from an answer, as the benchmarks do.

At least what EvalPlus's `sanitize` finds (arXiv 2305.01210) is found. `EXTRACTION` is its version: results of different
versions cannot be compared, so it stands in the header of a results file.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence

from ..tasks import Task, defines
from .fences import fenced_blocks
from .needed import defined, names_tested, program, returns
from .segments import NOT_PYTHON, Unit, longest_prefix, segments, units

EXTRACTION = 2
# Stop sequences of completions, from the Codex paper (arXiv 2107.03374).
STOPS = re.compile(r"\n(?:class\b|def\b|#|if\b|print\b)")
# Tokens that end an answer, left in the text by other programs.
ENDS = re.compile(r"<\|(?:im_end|endoftext|end_of_text|eot_id|end|EOT)\|>|</s>|<｜end▁of▁sentence｜>")


def code_of(answer: str, task: Task) -> str:
    """The program in an answer; empty if it holds no code.

    1. Thoughts (up to `</think>`) are dropped.
    2. The program is the fenced block that defines the entry point, the last where several do; without such a block, the
       stretch of the text that is Python and defines it. Where the task names no entry point, its tests do. Statements that
       the entry point does not need (examples, main programs) are dropped; what it needs from other blocks, and the lines
       above the function in the task, are put before it.
    3. Any other answer to code that is to be completed continues it, as far as the whole is Python.
    4. What is left is the first block that may be Python, or else the whole answer.

    The text of a hole is not searched: it stands between the task's prompt and its suffix.
    """
    if task.suffix is not None:
        return task.prompt + answer + task.suffix
    text = _cleaned(answer)
    if not text.strip():
        return ""
    blocks = fenced_blocks(text)
    named = [block.text for block in blocks if block.python] or [text]
    entry = {task.entry_point} if task.entry_point else names_tested(task.tests)
    if _is_continuation(text) and task.stub is not None and (code := _continued([text], task)):
        return code
    sources = [[block.text for block in blocks if block.python], [block.text for block in blocks if not block.python], [text]]
    for source in sources:
        if entry and (code := _self_standing(source, task, entry)):
            return code
    first = named[0]
    if task.stub is None or task.entry_point is None:
        return first
    if defines(first, task.entry_point):  # but it is not Python
        return _above(task) + first
    return _continued(named, task) or task.stub + STOPS.split(first, maxsplit=1)[0] + "\n"


def _cleaned(answer: str) -> str:
    text = ENDS.split(answer.replace("\r\n", "\n").removeprefix("\ufeff"), maxsplit=1)[0]
    _, thought, after = text.rpartition("</think>")
    return after if thought and after.strip() else text


def _self_standing(texts: Sequence[str], task: Task, entry: set[str]) -> str:
    """The program that texts hold; empty if none of their stretches defines the entry point."""
    runs = [run for text in texts for run in segments(text)]
    counts = [(len(defined(run, entry)), sum(returns(run, name) for name in entry)) for run in runs]
    best = max(counts, default=(0, 0))
    if not best[0]:
        return ""
    chosen = max(number for number, count in enumerate(counts) if count == best)
    above = _above(task)
    run = _without_stubs(runs[chosen], entry)
    others = [*reversed(runs[:chosen]), *runs[chosen + 1 :]]
    roots = entry | names_tested(task.tests)
    given = {name for unit in _units(above) for name in unit.binds}
    code = program(run, others, roots, given)
    if code.startswith("from __future__"):
        first, _, rest = code.partition("\n")
        return f"{first}\n{above}{rest}"
    return above + code


def _without_stubs(run: list[Unit], entry: set[str]) -> list[Unit]:
    """A run that ends with the last definition of the entry point that returns something."""
    for name in entry:
        cut = list(run)
        while cut and not returns(cut, name):
            last = max((number for number, unit in enumerate(cut) if name in unit.binds), default=-1)
            if last < 0:
                break
            del cut[last]
        if defined(cut, {name}):
            run = cut
    return run


def _units(text: str) -> list[Unit]:
    try:
        return units(text)
    except NOT_PYTHON:
        return longest_prefix(text.split("\n"))[0]


def _above(task: Task) -> str:
    """The lines of a task above its function: imports and helpers."""
    if task.stub is None or task.entry_point is None:
        return ""
    pattern = rf"^(?:async\s+)?def\s+{re.escape(task.entry_point)}\b"
    return re.split(pattern, task.stub, maxsplit=1, flags=re.MULTILINE)[0]


def _is_continuation(text: str) -> bool:
    """Whether a text begins within a function and does not stay at that indentation."""
    lines = [line for line in text.split("\n") if line.strip()]
    return lines[0][0] in " \t" and not lines[0].lstrip().startswith(("```", "~~~", "def ", "from ", "import ", "-", "*", ">"))


def _continued(texts: Sequence[str], task: Task) -> str:
    """The task's code continued by the text whose most lines belong to its function; empty if none can continue it."""
    if task.stub is None or task.entry_point is None:
        return ""
    stub = task.stub if task.stub[-1:].isspace() else task.stub + "\n"
    own = len(stub.rstrip("\n").split("\n"))
    roots = {task.entry_point} | names_tested(task.tests)
    best, code = own, ""
    for text in (one for some in texts for one in _variants(some, stub)):
        run, _ = longest_prefix((stub + text).split("\n"))
        for number, unit in enumerate(run):
            end = unit.nodes[-1].end_lineno or 0
            if task.entry_point in unit.binds and unit.nodes[0].lineno <= own and end > best:
                after = [one for one in run[number + 1 :] if task.entry_point not in one.binds]
                given = {name for one in run[:number] for name in one.binds}
                best, code = end, "".join(one.text for one in run[:number]) + program([unit, *after], [], roots, given)
    return code


def _variants(text: str, stub: str) -> Iterator[str]:
    """A completion as it is, then with the indentation that its first line, or all of it, may have lost."""
    lines = [line for line in stub.split("\n") if line.strip()]
    indent = lines[-1][: len(lines[-1]) - len(lines[-1].lstrip())] or "    "
    yield text
    yield indent + text.lstrip()
    yield textwrap.indent(textwrap.dedent(text).strip("\n"), indent) + "\n"
