"""Programs that mean harm, with the system's sandbox and without one."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlx_diffucoder.evaluation import Limits
from mlx_diffucoder.evaluation.execute import run_program, sandbox_missing

RIGHT = "\ndef f(x):\n    return x\n"
TESTS = "def check(candidate):\n    assert candidate(1) == 1\n    assert candidate([2, 3]) == [2, 3]\n\ncheck(f)\n"
NATIVE = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
# What forgers use: an object that equals everything, writing to every open file, and messages between the two processes.
TOOLS = """
import os, pickle
class E:
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = lambda *args: True
    __sub__ = __rsub__ = __abs__ = __getitem__ = __call__ = lambda self, *args: self
    __hash__ = lambda self: 0
    __bool__ = lambda self: True
def tell(data):
    for fd in range(3, 30):
        try: os.write(fd, data)
        except OSError: pass
def message(value):
    data = pickle.dumps(value)
    return len(data).to_bytes(8, 'big') + data
def f(x): return None
"""
INHERITED = """
class E({base}):
    __eq__ = lambda *a: True
    __ne__ = lambda *a: False
    __hash__ = None
def f(x): return E()
"""
BASES = ("int", "float", "str", "tuple", "list", "dict", "set", "bytes", "complex", "frozenset", "BaseException")
TEXT = Path(__file__).with_name("hostile.txt").read_text()
PROGRAMS: dict[str, str] = dict(part.split("\n", 1) for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:])
PROGRAMS |= {f"forged: equal {base}": INHERITED.format(base=base) for base in BASES}
LINUX_ONLY = ("native", "alone")
SANDBOXES = ["off", pytest.param("require", marks=pytest.mark.skipif(bool(sandbox_missing()), reason=sandbox_missing()))]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs processes of POSIX")


class Outside:
    """What no program may reach: a file in a folder, a server, a process with a secret in its environment."""

    def __init__(self, folder):
        self.folder, self.secret = folder, folder / "secret.py"
        self.secret.write_text("token = 1\n")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.victim = subprocess.Popen(["sleep", "1000"], env={"A_SECRET": "1"})

    def program(self, name):
        """A program that passes only if its deed was done."""
        kind, code = name.split(": ")[0], PROGRAMS[name]
        if kind == "forged":
            return TOOLS + code
        given = {"SECRET": str(self.secret), "FOLDER": str(self.folder), "VICTIM": self.victim.pid}
        given["PORT"] = self.server.getsockname()[1]
        values = "".join(f"{key} = {value!r}\n" for key, value in given.items())
        return values + (NATIVE if kind in LINUX_ONLY else "") + code + RIGHT

    def damage(self):
        found = []
        if self.victim.poll() is not None or "T" in state_of(self.victim.pid):
            found.append("the process was stopped")
        if [path.name for path in self.folder.iterdir()] != ["secret.py"] or self.secret.read_text() != "token = 1\n":
            found.append("the folder was changed")
        with contextlib.suppress(BlockingIOError):
            self.server.accept()
            found.append("the server was reached")
        return found

    def close(self):
        self.victim.kill()
        self.victim.wait()
        self.server.close()


def state_of(pid):
    return (
        subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout if shutil.which("ps") else ""
    )


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    os.environ["A_SECRET"] = "1"
    found = Outside(tmp_path_factory.mktemp("outside"))
    yield found
    found.close()
    del os.environ["A_SECRET"]


def attempt(outside, name, sandbox):
    limits = Limits(timeout=2 if "recursion in C" in name else 20, memory=512, sandbox=sandbox)
    return run_program(outside.program(name), TESTS, limits)


@pytest.mark.parametrize("sandbox", SANDBOXES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_hostile_program_passes_or_reaches_anything_outside(outside, name, sandbox):
    kind = name.split(": ")[0]
    if kind == "alone" and sandbox == "off":
        pytest.skip("C code reads and writes what it likes without a sandbox")
    if kind in LINUX_ONLY and sys.platform != "linux":
        pytest.skip("system calls of Linux")
    outcome = attempt(outside, name, sandbox)
    assert not outcome.passed, outcome
    assert outcome.detail
    assert outside.damage() == []


def test_there_are_enough_of_them():
    assert len(PROGRAMS) >= 100
    assert {name.split(": ")[0] for name in PROGRAMS} == {
        *("reads", "writes", "network", "kills", "native", "alone", "fills", "forged")
    }


AS_USER = """
import json, os, subprocess, sys, tempfile
from pathlib import Path
os.chdir(sys.argv[2])
from mlx_diffucoder.evaluation import sandbox as its
from tests.evaluation.test_hostile import RIGHT, TESTS, Limits, Outside, attempt, run_program, sandbox_missing
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def starts(python):
    try:
        return subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode == 0
    except OSError:
        return False
if not starts(sys.executable):  # it stands in root's home
    sys.executable = "/usr/bin/python3"
    sys.prefix = sys.base_prefix = sys.exec_prefix = sys.base_exec_prefix = "/usr"
if not starts(sys.executable):
    sys.exit("no Python that a plain user can start")
its.readable.cache_clear()
sandbox_missing.cache_clear()
os.environ["A_SECRET"] = "1"
outside = Outside(Path(tempfile.mkdtemp()))
found = {}
for sandbox in ("off", "require"):
    if sandbox == "require" and sandbox_missing():
        found["missing"] = sandbox_missing()
        continue
    found[f"{sandbox} harmless"] = run_program(RIGHT, TESTS, Limits(timeout=20, sandbox=sandbox)).passed
    for name in json.loads(sys.argv[1]):
        if not (name.startswith("alone") and sandbox == "off"):
            outcome = attempt(outside, name, sandbox)
            found[f"{sandbox} {name}"] = (outcome.passed, outcome.kind, outcome.detail, outside.damage())
outside.close()
print(json.dumps(found))
"""
FEW = (
    "reads: open",
    "writes: remove",
    "network: connect",
    "kills: pidfd",
    "native: fork",
    "alone: read",
    "fills: forks",
    "forged: equal",
)


@pytest.fixture
def everyones():
    """A folder that every user can use: pytest's own are for one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("names", [FEW, pytest.param(tuple(PROGRAMS), marks=pytest.mark.slow)], ids=["few", "all"])
def test_no_hostile_program_of_a_plain_user_passes_or_reaches_anything_outside(names, everyones):
    command = [sys.executable, "-B", "-c", AS_USER, json.dumps(names), str(Path(__file__).parents[2])]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(everyones)}, capture_output=True, text=True)
    if "no Python" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if missing := found.pop("missing", ""):
        assert sandbox_missing(), f"a sandbox works for root alone: {missing}"
    assert [found.pop(name) for name in list(found) if name.endswith("harmless")] == [True] * (1 if missing else 2)
    assert len(found) >= len(names) - 1
    assert {name: one for name, one in found.items() if one[0] or one[3]} == {}
    assert list(everyones.glob("diffucode-*")) == []
