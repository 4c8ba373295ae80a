"""What runs an answer and its tests: two processes, so that an answer cannot write its own verdict.

`execute` starts `main` in a process of its own. It forks: the child runs the answer and serves calls, the parent runs the
tests and makes these calls (`wire`). Only the parent has the tests and the file descriptor of the verdict, a JSON list of
the kind of outcome and one line of detail. This package imports nothing from outside of itself.
"""

import builtins
import errno
import json
import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from .confine import hide, limit, refuse_syscalls, watch_python
from .wire import TESTS, Gone, Wire

PATIENCE = 0.5  # seconds in which an answer that closed its pipe should have ended
ANSWER = "answer"


def main() -> None:
    """Read the job on stdin, and the tests from the descriptor in `sys.argv`; run both; write the verdict to the other one."""
    verdict, tests = map(int, sys.argv[1:3])
    job = json.loads(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    sys.argv = ["answer.py"]
    hide(job["parent"])
    judge = os.getpid()
    (from_answer, to_tests), (from_tests, to_answer) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (verdict, tests, nothing, from_answer, to_answer):
            os.close(descriptor)
        hide(judge)
        limit(job)
        refuse_syscalls()
        watch_python(job["readable"])
        _answer(job["code"], Wire(from_tests, to_tests))
    for descriptor in (from_tests, to_tests):
        os.close(descriptor)
    with open(tests, encoding="utf-8", errors="surrogatepass") as file:  # noqa: PTH123
        source = file.read()
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    limit(job)
    refuse_syscalls()
    try:
        kind, detail = _judge(source, Wire(from_answer, to_answer, ours=TESTS))
    except Gone:
        kind, detail = _ended(child)
    os.write(verdict, json.dumps([kind, " ".join(detail[:300].split()).rstrip(" :")]).encode() + b"\n")
    os._exit(0)


def _answer(code: str, wire: Wire) -> NoReturn:
    """Run the answer in a module that is not `__main__`, as the benchmarks do. Then serve the tests' calls."""
    module = types.ModuleType(ANSWER)
    sys.modules[ANSWER] = module  # dataclasses look up their module
    leave = os._exit  # the answer may replace it

    def run() -> types.ModuleType:
        exec(compile(code, "answer.py", "exec"), module.__dict__)
        return module

    try:
        wire.reply(run)
        wire.serve()
    finally:
        leave(0)


def _judge(source: str, wire: Wire) -> tuple[str, str]:
    """Run the tests. Names that they do not define are the answer's. Returns the kind of outcome and a line about it."""
    wrong = "error"
    try:
        answer = wire.wait()
        sys.modules[ANSWER] = answer
        wrong = "wrong"
        program = compile(source, "tests.py", "exec")
        exec(program, {"__name__": TESTS, **_defined(answer, set(_names(program)))})
        bool(answer)  # raises again what a test may have caught: the answer is gone
    except Gone:
        raise
    except MemoryError:
        return "memory", "MemoryError"
    except AssertionError as error:
        return wrong, f"AssertionError: {error} {_line_of(error, source)}"
    except BaseException as error:  # also SystemExit and KeyboardInterrupt
        kind = "output" if isinstance(error, OSError) and error.errno == errno.EFBIG else "error"
        return kind, f"{type(error).__name__}: {error}"
    return "passed", ""


def _defined(answer: Any, names: set[str]) -> dict[str, Any]:
    """What an answer defines of some names. Of those of Python's builtins nothing, unless the tests use nothing else of it."""

    def found(name: str) -> dict[str, Any]:
        try:
            return {name: getattr(answer, name)}
        except AttributeError:
            return {}

    known = {name for name in names if hasattr(builtins, name)}
    others = {name: value for one in names - known if not one.startswith("__") for name, value in found(one).items()}
    return others if others or ANSWER in names else {name: value for one in known for name, value in found(one).items()}


def _names(program: types.CodeType) -> Iterator[str]:
    """Every name that a program may look up."""
    yield from program.co_names
    for value in program.co_consts:
        if isinstance(value, types.CodeType):
            yield from _names(value)


def _line_of(error: BaseException, source: str) -> str:
    """The line of the tests in which an error was raised."""
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "tests.py":
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = source.splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def _ended(child: int) -> tuple[str, str]:
    """How an answer that no longer speaks has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > deadline:
            return "exit", "it stopped answering its tests"
        time.sleep(0.01)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return "exit", f"ended with exit code {code} before its tests were done"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    # Nobody else sends SIGKILL to it: the kernel does when memory runs out.
    kinds = {signal.SIGXCPU: "timeout", signal.SIGALRM: "timeout", signal.SIGXFSZ: "output", signal.SIGKILL: "memory"}
    return kinds.get(-code, "error"), f"killed by {name}"  # type: ignore[call-overload]
