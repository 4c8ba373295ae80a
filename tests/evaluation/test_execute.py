"""Programs under limits."""

import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.evaluation import Limits
from mlx_diffucoder.evaluation.execute import run_program
from mlx_diffucoder.tasks import read_tasks

from .programs import FUNCTIONS, LONG, RIGHT, SHORT, TESTS

PROGRAMS = {
    "right": (RIGHT, "passed"),
    "wrong": ("def f(x): return 2", "wrong"),
    "syntax": ("def f(", "error"),
    "its own assertion": ("assert False\n" + RIGHT, "error"),
    "loops": ("def f(x):\n    while True: pass", "timeout"),
    "loops and catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "timeout",
    ),
    "sleeps deaf to signals": (
        "import signal, time\nfor s in (2, 15, 24): signal.signal(s, signal.SIG_IGN)\ntime.sleep(99)",
        "timeout",
    ),
    "raises what cannot be printed": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        "error",
    ),
    "forks": ("import os\nwhile True: os.fork()", "error"),
    "starts a program": ("import subprocess\nsubprocess.run(['sleep', '99'])", "error"),
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "error"),
    "prints without end": ("while True: print('x' * 1000)", "output"),
    "complains without end": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
    "writes a large file": ("with open('x', 'wb') as file: file.write(b'x' * 10**8)", "output"),
    "eats memory": ("x = []\nwhile True: x.append(bytearray(10**7))", "memory"),
    "wants all memory at once": ("bytearray(10**13)", "memory"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "error"),
    "os._exit(0)": ("import os\nos._exit(0)", "exit"),
    "os._exit(0) in the function": ("import os\ndef f(x): os._exit(0)", "exit"),
    "SystemExit in the function": ("def f(x): raise SystemExit(0)", "error"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "error"),
    "closes every descriptor": ("import os\nos.closerange(0, 1000)\n" + RIGHT, "exit"),
    "forges a verdict": (
        "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'[\"passed\", 0]\\n')\n    except OSError: pass\n" + RIGHT,
        "exit",
    ),
    "recurses": ("def f(x): return f(x)", "error"),
    "recurses without limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x) + 1",
        "memory timeout error",
    ),
    "lowers the recursion limit": ("import sys\nsys.setrecursionlimit(60)\n" + RIGHT, "passed"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "error"),
    "reads stdin": ("input()", "error"),
    "null byte": ("a\0b", "error"),
    "leaves a deep tree": ("import os\nfor i in range(2000):\n    os.mkdir('d'); os.chdir('d')\n" + RIGHT, "passed error"),
    "leaves work for later": ("import atexit, time\natexit.register(time.sleep, 99)\n" + RIGHT, "passed"),
    "has a main": ("if __name__ == '__main__':\n    input()\n" + RIGHT, "passed"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n" + RIGHT, "passed"),
}


needs_a_memory_limit = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no limit on memory")


@pytest.fixture
def no_leftovers(tmp_path, monkeypatch):
    """The temporary folder of this test alone, which must be empty after it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_a_memory_limit) if "memory" in PROGRAMS[name][1] else name for name in PROGRAMS]
)
def test_a_program_is_stopped_and_its_failure_has_the_right_name(name, no_leftovers):
    code, kinds = PROGRAMS[name]
    start = time.monotonic()
    # Only what is meant to run out of time is given little of it: the machine may be busy.
    limits = replace(SHORT, timeout=SHORT.timeout if "timeout" in kinds else 20)
    outcome = run_program(code, TESTS, limits)
    assert outcome.kind in kinds.split(), outcome
    assert time.monotonic() - start < limits.timeout + 5
    if outcome.kind != "passed":
        assert outcome.detail


def working_in(folder):
    """Processes whose working directory is or was in a folder; Linux lists them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [process.name] if (process / "cwd").readlink().is_relative_to(folder) else []
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="no /proc")
def test_children_that_python_does_not_know_of_die_with_their_group(no_leftovers):
    # Where the user is not root, RLIMIT_NPROC already lets none of them come to life.
    code = "import ctypes\nc = ctypes.CDLL(None)\nfor i in range(5): c.fork()\nwhile True: pass"
    assert run_program(code, TESTS, SHORT).kind == "timeout"
    deadline = time.monotonic() + 5
    while working_in(no_leftovers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert working_in(no_leftovers) == []


def test_a_forked_child_cannot_pass_in_its_parents_place():
    code = "import ctypes, os\nif ctypes.CDLL(None).fork() != 0: os._exit(0)\n" + RIGHT
    assert run_program(code, TESTS, LONG).kind in ("exit", "timeout")


def test_nothing_of_the_users_environment_or_folder_is_given(monkeypatch):
    monkeypatch.setenv("A_SECRET", "1")
    code = "import os, sys\nassert 'A_SECRET' not in os.environ\nassert os.listdir() == []\nassert sys.argv == ['answer.py']\n"
    code += "assert os.getcwd() == os.environ['HOME']\nassert sys.path and '' not in sys.path\n" + RIGHT
    outcome = run_program(code, TESTS, LONG)
    assert outcome.passed, outcome


def test_numpy_fits_into_the_default_memory():
    assert run_program("import numpy\n" + RIGHT, TESTS, Limits(timeout=20)).passed


def test_a_failed_test_is_quoted():
    assert run_program("def f(x): return 2", TESTS, LONG).detail == "AssertionError: assert candidate(1) == 1"


@pytest.mark.parametrize(("field", "value"), [("timeout", 0), ("timeout", math.nan), ("memory", 0), ("output", 0)])
def test_a_limit_that_cannot_work_is_named(field, value):
    with pytest.raises(ConfigError, match=field) as caught:
        Limits(**{field: value})
    assert caught.value.field == field


def solve(tasks):
    return {task.id: run_program(task.solution, task.tests, LONG).kind for task in tasks}


def test_canonical_solutions_pass():
    tasks = read_tasks(FUNCTIONS)
    assert len(tasks) == 200
    assert set(solve(tasks[::10]).values()) == {"passed"}


@pytest.mark.slow
def test_every_canonical_solution_passes():
    assert set(solve(read_tasks(FUNCTIONS)).values()) == {"passed"}
