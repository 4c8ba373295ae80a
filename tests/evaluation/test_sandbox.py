"""The sandbox, and what tests can do with an answer that runs in another process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_diffucoder.errors import ConfigError, ExecutionError
from mlx_diffucoder.evaluation import Limits, execute, run_program, sandbox
from mlx_diffucoder.tasks import task_of

from .programs import LONG

STACK = "class Stack(list):\n    def push(self, x): self.append(x)\n"
NODE = "class Node:\n    def __init__(self, value): self.value, self.next = value, None\n"
USES = {
    "an object's methods and attributes": (
        NODE,
        "n = Node(1)\nn.next = Node([2])\nassert n.next.value == [2]\nn.value = 3\nassert n.value == 3",
    ),
    "a class of the tests": (
        "def last(n):\n    while n.next: n = n.next\n    return n",
        "class N:\n    def __init__(self, next=None): self.next = next\nend = N()\nassert last(N(N(end))) is end",
    ),
    "what a call changes": (
        "def turn(m): m[:] = m[::-1]\ndef put(d): d['a'] = 1",
        "m, d = [[1], [2]], {}\nturn(m); put(d)\nassert (m, d) == ([[2], [1]], {'a': 1})",
    ),
    "functions given": ("def twice(f, x): return f(f(x))", "assert twice(lambda x: x + 1, 1) == 3\nassert twice(abs, -1) == 1"),
    "functions returned": ("def adder(n): return lambda x: x + n", "assert adder(1)(2) == 3"),
    "generators": (
        "def count():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "import itertools\nassert list(itertools.islice(count(), 3)) == [0, 1, 2]",
    ),
    "iterators given": ("def total(xs): return sum(xs)", "assert total(x for x in [1, 2]) == total(iter([3])) == 3"),
    "its exceptions": (
        "class Bad(ValueError): pass\ndef f(x): raise Bad(x)",
        "try:\n    f(1)\nexcept Bad as error:\n    assert error.args == (1,)\nelse:\n    assert False",
    ),
    "a list by inheritance": (
        STACK,
        "s = Stack()\ns.push(1)\nassert s == [1] and [1] == s and s != [2] and len(s) == 1 and s[0] == 1 and 1 in s",
    ),
    "named tuples": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)\ndef x(p): return p.x",
        "assert f() == (1, 2) and f().y == 2 and x(f()) == 1",
    ),
    "its own equality": (
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    x: int",
        "assert P(1) == P(1) and P(1) != P(2) and P(1) < P(2)\nassert repr(P(1)) == 'P(x=1)'",
    ),
    "enumerations": (
        "import enum\nclass C(enum.Enum):\n    A = 1\ndef f(): return C.A",
        "assert f() is C.A and f().value == 1 and isinstance(f(), C)",
    ),
    "coroutines": ("async def f(x): return x + 1", "import asyncio\nassert asyncio.run(f(1)) == 2"),
    "context managers": ("import contextlib\n@contextlib.contextmanager\ndef f(): yield 5", "with f() as x:\n    assert x == 5"),
    "numpy": (
        "import numpy as np\ndef f(x): return np.sum(x)\ndef g(x): return np.array(x) * 2",
        "import numpy\nassert f([1, 2]) == 3\nassert (g([1]) == numpy.array([2])).all()",
    ),
    "values of the library": (
        "import collections, decimal, fractions\n"
        "def f(): return collections.Counter('aa'), decimal.Decimal('1.5'), fractions.Fraction(1, 3)",
        "import fractions\nassert f() == ({'a': 2}, 1.5, fractions.Fraction(1, 3))",
    ),
    "modules it imports": ("import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(4), 2.0)"),
    "files of both": ("def f(path): return open(path).read()", "open('x', 'w').write('y')\nassert f('x') == 'y'"),
    "a builtin's name": ("def sum(a, b): return a - b", "assert sum(3, 1) == 2"),
    "a builtin's name among others": (
        "def sum(a, b): return a - b\ndef f(): return 1",
        "from answer import sum\nassert sum(3, 1) == 2 == f() + 1",
    ),
}


@pytest.mark.parametrize("mode", ["auto", "off"])
@pytest.mark.parametrize("use", USES)
def test_tests_use_an_answer_as_if_it_ran_among_them(use, mode):
    outcome = run_program(*USES[use], Limits(timeout=20, sandbox=mode))
    assert outcome.passed, outcome


def test_a_task_s_helpers_are_the_task_s():
    row = {"task_id": "t", "entry_point": "root", "test": "def check(candidate):\n    assert poly(candidate(2)) == 0\n"}
    row["prompt"] = "import math\n\ndef poly(x):\n    return x - 2\n\ndef root(x):\n    '''Where poly is 0.'''\n"
    task = task_of(row, "t:1")
    assert run_program("def poly(x): return x - 2\ndef root(x): return 2", task.tests, LONG).passed
    assert run_program("def poly(x): return 0\ndef root(x): return 7", task.tests, LONG).kind == "wrong"


@pytest.mark.parametrize("why", ["bwrap is not installed", "setting up uid map: Permission denied"])
def test_without_a_sandbox_auto_runs_without_and_require_says_why_not(monkeypatch, why):
    monkeypatch.setattr(execute, "sandbox_missing", lambda: why)
    assert Limits().sandbox == "off"
    with pytest.raises(ExecutionError, match=f"no sandbox works here .{why}.*--sandbox off"):
        Limits(sandbox="require")


def test_a_sandbox_that_cannot_start_is_found_by_trying_it(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(execute, "sandbox_program", lambda: str(fake))
    monkeypatch.setattr(sandbox, "sandbox_program", lambda: str(fake))
    assert "namespace" in execute.sandbox_missing.__wrapped__()


def test_an_unknown_mode_is_named():
    with pytest.raises(ConfigError, match="did you mean 'require'"):
        Limits(sandbox="requir")


def test_the_profile_of_sandbox_exec_opens_nothing_but_what_python_needs(monkeypatch, tmp_path):
    home = tmp_path / 'a "home"'
    monkeypatch.setattr(sandbox.Path, "home", lambda: home)
    monkeypatch.setattr(sandbox, "readable", lambda: (str(home / "venv" / "lib"),))
    rules = sandbox.profile("/private/tmp/own").splitlines()
    assert rules[:4] == ["(version 1)", "(allow default)", "(deny network*)", "(deny mach-lookup)"]
    assert rules.index("(deny file-write*)") < rules.index(
        '(allow file-write* (subpath "/private/tmp/own") (literal "/dev/null"))'
    )
    quoted = str(home).replace('"', '\\"')
    denied = next(
        index for index, rule in enumerate(rules) if rule.startswith("(deny file-read*") and f'(subpath "{quoted}")' in rule
    )
    allowed = next(index for index, rule in enumerate(rules) if rule.startswith("(allow file-read* "))
    assert denied < allowed
    assert f'(subpath "{quoted}/venv/lib")' in rules[allowed] and f'(subpath "{quoted}")' not in rules[allowed]
    assert all(rule.count("(") == rule.count(")") for rule in rules)


@pytest.mark.skipif(not Path("/proc").exists(), reason="no /proc")
@pytest.mark.parametrize("mode", ["auto", "off"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_no_process_and_no_folder(number, mode, tmp_path):
    marker = f"answer-{tmp_path.name}"
    code = f"import time\nopen('{marker}', 'w')\ntime.sleep(50)"
    script = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
    script += "from mlx_diffucoder.evaluation import Limits, run_program\nprint('ready', flush=True)\n"
    script += f"run_program({code!r}, '', Limits(timeout=40, sandbox={mode!r}))"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    deadline = time.monotonic() + 20
    children, steady = [], 0  # for a second no process is added: the answer sleeps
    while steady < 50 and time.monotonic() < deadline:
        time.sleep(0.02)
        found = descendants(process.pid)
        children, steady = found, steady + 1 if found == children and len(found) > 1 else 0
    process.send_signal(number)
    process.wait(20)
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert children and [child for child in children if alive(child)] == []
    if number != signal.SIGKILL:  # nobody is left to remove it
        assert list(tmp_path.iterdir()) == []


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid):
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = entry.read_text().rpartition(")")
        except OSError:
            continue
        parents.setdefault(int(rest.split()[1]), []).append(int(name.split()[0]))
    found, waiting = [], [pid]
    while waiting:
        inner = parents.get(waiting.pop(), [])
        found += inner
        waiting += inner
    return found
