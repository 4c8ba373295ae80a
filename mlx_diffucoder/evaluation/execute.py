"""Run one answer and its tests, in a sandbox where the system has one, under limits.

Limited are wall-clock and CPU time, address space, the size of any file, printed bytes, and new processes and threads. The
answer gets a nearly empty environment, a temporary folder as its working directory and home, and nothing on stdin. Its tests
run in a process of their own, which calls the answer's functions and writes the verdict (`runner`).

`Limits.sandbox` names the sandbox (`sandbox`). **Without one the code runs as you**: Python code is kept from your files and
your network, C code only from starting and signalling processes and from the network, and only on Linux. macOS ignores the
memory limit. An answer may then write many files, each below the limit; they are removed with the folder.
"""

import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ExecutionError, one_of
from .sandbox import RUNNER, WORK, confined, readable, sandbox_name, sandbox_program

PASSED = "passed"
FAILURES = {
    "wrong": "a test's assertion failed",
    "error": "an exception, a syntax error or a crash",
    "exit": "the program ended before its tests did",
    "timeout": "out of wall-clock or CPU time",
    "memory": "out of memory",
    "output": "printed or wrote too much",
    "no_code": "no code in the answer",
}
BEGIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from runner import main; del sys.path[0]; main()"
MODES = ("auto", "require", "off")
ADVICE = (
    "install bubblewrap 0.8 or newer and allow it to make user namespaces" if sys.platform == "linux" else "run it in a container"
)
CHUNK = 1 << 16
POLL = 0.02  # seconds between checks of a process whose pipes are silent


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a program.

    Attributes:
        timeout: seconds of wall-clock time, from the start of its process.
        memory: MiB of address space of each of its two processes, the interpreter included.
        output: bytes printed to stdout and stderr together, and bytes of any one file.
        sandbox: the sandbox's name, or "off". Given "auto" it becomes the one that works here, or "off"; given "require"
            it is an error if none does.

    Raises:
        ConfigError: a value is out of range; it names the field.
        ExecutionError: the sandbox does not work here.
    """

    timeout: float = 5.0
    memory: int = 1024
    output: int = 1 << 20
    sandbox: str = "auto"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and 0 < self.timeout <= 86_400):
            raise ConfigError(f"timeout must be above 0 and at most 86400 seconds, not {self.timeout}", field="timeout")
        if not 128 <= self.memory <= 1 << 20:
            raise ConfigError(f"memory must be from 128 to 1048576 MB, not {self.memory}", field="memory")
        if self.output < 1:
            raise ConfigError(f"output must be a whole number of 1 or more, not {self.output}", field="output")
        if self.sandbox not in (*MODES, sandbox_name()):
            raise ConfigError(f"sandbox must be {one_of(MODES, self.sandbox)}", field="sandbox")
        if self.sandbox != "off":
            missing = sandbox_missing()
            if missing and self.sandbox != "auto":
                raise ExecutionError(f"no sandbox works here ({missing}); {ADVICE}, or run without: --sandbox off")
            object.__setattr__(self, "sandbox", "off" if missing else sandbox_name())


@dataclass(frozen=True)
class Outcome:
    """How a program ended: `PASSED` or one of `FAILURES`, and one line of detail."""

    kind: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.kind == PASSED


def run_program(code: str, tests: str, limits: Limits) -> Outcome:
    """Run `code`, then `tests`, which can use all names of it. The program passes if neither raises.

    Names of Python's builtins are not the answer's in the tests, unless they say `from answer import name`.

    Returns within `limits.timeout` plus the time to kill a process group. The whole group is then dead and
    its folder removed, also after Ctrl-C.

    Raises:
        ExecutionError: no process could be started.
    """
    return _run(code, tests, limits, limits.sandbox)


def _run(code: str, tests: str, limits: Limits, sandbox: str) -> Outcome:
    job = {"code": code, "timeout": limits.timeout, "memory_bytes": limits.memory << 20, "output_bytes": limits.output}
    job["readable"] = readable() if sandbox == "off" else None
    job["parent"] = os.getpid() if sandbox == "off" else None  # a sandbox has process ids of its own
    with _folder() as folder, _pipe() as (read, write):
        process = _start(job, tests, folder, write, sandbox)
        try:
            return _watch(process, read, limits)
        finally:
            _end(process)


@cache
def sandbox_missing() -> str:
    """Why no sandbox works on this machine, in a few words; empty if one does. It is tried, not looked for."""
    if not Path(sandbox_program()).exists():
        return f"{sandbox_program()} is not installed"
    with tempfile.NamedTemporaryFile(prefix="diffucode-") as secret:
        code = f"import os\ndef there():\n    return os.path.exists({secret.name!r})\n"
        outcome = _run(code, "assert not there()", Limits(timeout=20, sandbox="off"), sandbox_name())
    return "" if outcome.passed else outcome.detail


@contextmanager
def _folder() -> Iterator[str]:
    try:
        folder = tempfile.mkdtemp(prefix="diffucode-eval-")
    except OSError as error:
        raise ExecutionError(f"no temporary folder could be made to run an answer in ({error.strerror})") from None
    try:
        yield folder
    finally:
        _remove(folder)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def _start(job: dict[str, Any], tests: str, folder: str, verdict: int, sandbox: str) -> "subprocess.Popen[bytes]":
    home = folder if sandbox != "bubblewrap" else WORK
    # A thread's stack and buffers count as address space: libraries get one thread.
    environment = {"HOME": home, "TMPDIR": home, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as source:
            for file, text in ((stdin, json.dumps(job)), (source, tests)):
                file.write(text.encode(errors="surrogatepass"))
                file.seek(0)
            begin = [sys.executable, "-I", "-B", "-X", "utf8", "-c", BEGIN, str(RUNNER.parent)]
            return subprocess.Popen(
                confined([*begin, str(verdict), str(source.fileno())], folder, sandbox),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(verdict, source.fileno()),
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise ExecutionError(f"no process could be started to run an answer in ({error.strerror})") from None


def _watch(process: "subprocess.Popen[bytes]", verdict: int, limits: Limits) -> Outcome:
    """Read the pipes until the process gives its verdict, ends, or exceeds a limit."""
    deadline = time.monotonic() + limits.timeout
    said, printed, last = b"", 0, b""
    with selectors.DefaultSelector() as pipes:
        pipes.register(verdict, selectors.EVENT_READ)
        pipes.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        while (left := deadline - time.monotonic()) > 0:
            # Checked before the pipes are read, so that everything written before the end is read. The end of
            # a pipe proves nothing: a child process may hold it open.
            ended = process.poll() is not None
            ready = pipes.select(0 if ended else min(left, POLL))
            for key, _ in ready:
                chunk = os.read(key.fd, CHUNK)
                if not chunk:
                    pipes.unregister(key.fileobj)
                elif key.fd == verdict:
                    said += chunk
                else:
                    printed, last = printed + len(chunk), chunk
            if printed > limits.output:
                return Outcome("output", f"more than {limits.output} bytes printed")
            if b"\n" in said:
                return Outcome(*json.loads(said))
            if ended and not ready:
                reason = last.decode(errors="replace").strip().rpartition("\n")[2][:300]
                return Outcome("error", reason or f"its tests ended with exit code {process.returncode}")
    return Outcome("timeout", f"stopped after {limits.timeout:g} seconds")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the whole group at once, which leaves a fork bomb no time to continue."""
    with suppress(ProcessLookupError, PermissionError):  # no process left; macOS raises EPERM if only a zombie is
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _remove(folder: str) -> None:
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        # Folders without permissions, files still appearing, or a tree deeper than Python's recursion.
        subprocess.run(["/bin/rm", "-rf", folder], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
