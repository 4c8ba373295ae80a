"""Run one answer in a separate process, under limits.

Limited are wall-clock and CPU time, address space, the size of any file, printed bytes, and new processes
and threads. The process gets a nearly empty environment, a temporary folder as its working directory and
home, nothing on stdin, and its own process group, which is always killed at the end.

**This is not a security sandbox.** The code runs as you: it can read, change and delete your files and use
the network. The limits stop mistakes, not malice: code that searches its own process for the verdict's
token can claim to have passed. macOS ignores the memory limit. The process limit does not apply to root:
there, only the refusal of Python's own calls and the kill of the process group remain, and a process that C
code moved to another group survives. An answer may write many files, each below the limit; they are
removed with the folder.
"""

import json
import math
import os
import secrets
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
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ExecutionError

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
RUNNER = Path(__file__).with_name("runner.py")
CHUNK = 1 << 16
POLL = 0.02  # seconds between checks of a process whose pipes are silent


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a program.

    Attributes:
        timeout: seconds of wall-clock time, from the start of its process.
        memory: MiB of address space, the interpreter included.
        output: bytes printed to stdout and stderr together, and bytes of any one file.

    Raises:
        ConfigError: a value is out of range; it names the field.
    """

    timeout: float = 5.0
    memory: int = 1024
    output: int = 1 << 20

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and 0 < self.timeout <= 86_400):
            raise ConfigError(f"timeout must be above 0 and at most 86400 seconds, not {self.timeout}", field="timeout")
        if not 128 <= self.memory <= 1 << 20:
            raise ConfigError(f"memory must be from 128 to 1048576 MB, not {self.memory}", field="memory")
        if self.output < 1:
            raise ConfigError(f"output must be a whole number of 1 or more, not {self.output}", field="output")


@dataclass(frozen=True)
class Outcome:
    """How a program ended: `PASSED` or one of `FAILURES`, and one line of detail."""

    kind: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.kind == PASSED


def run_program(code: str, tests: str, limits: Limits) -> Outcome:
    """Run `code`, then `tests` in the same module, in another process. It passes if neither raises.

    Returns within `limits.timeout` plus the time to kill a process group. The whole group is then dead and
    its folder removed, also after Ctrl-C.

    Raises:
        ExecutionError: no process could be started.
    """
    token = secrets.token_hex(16)
    job = {"code": code, "tests": tests, "token": token, "timeout": limits.timeout}
    job |= {"memory_bytes": limits.memory << 20, "output_bytes": limits.output}
    with _folder() as folder, _pipe() as (read, write):
        process = _start(job, folder, write)
        try:
            return _watch(process, read, f"{token}\n".encode(), limits)
        finally:
            _end(process)


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


def _start(job: dict[str, Any], folder: str, verdict: int) -> "subprocess.Popen[bytes]":
    # A thread's stack and buffers count as address space: libraries get one thread.
    environment = {"HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-B", "-X", "utf8", str(RUNNER), str(verdict)]
    try:
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(job).encode())
            stdin.seek(0)
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(verdict,),
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise ExecutionError(f"no process could be started to run an answer in ({error.strerror})") from None


def _watch(process: "subprocess.Popen[bytes]", verdict: int, token: bytes, limits: Limits) -> Outcome:
    """Read the pipes until the process gives its verdict, ends, or exceeds a limit."""
    deadline = time.monotonic() + limits.timeout
    said, printed = b"", 0
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
                    printed += len(chunk)
            if printed > limits.output or len(said) > CHUNK:
                return Outcome("output", f"more than {limits.output} bytes printed")
            if b"\n" in said:
                return _verdict(said, token)
            if ended and not ready:
                return _silent(process.returncode)
    return Outcome("timeout", f"stopped after {limits.timeout:g} seconds")


def _verdict(said: bytes, token: bytes) -> Outcome:
    """The runner's verdict. Anything else that an answer wrote into the pipe is rejected."""
    if said == token:
        return Outcome(PASSED)
    try:
        kind, detail = json.loads(said)
    except (ValueError, TypeError):
        return Outcome("exit", "the verdict cannot be read")
    if kind not in ("wrong", "error", "memory", "output") or not isinstance(detail, str):
        return Outcome("exit", "the verdict cannot be read")
    return Outcome(kind, detail)


def _silent(code: int) -> Outcome:
    """A process that ended without a verdict."""
    if code >= 0:
        return Outcome("exit", f"ended with exit code {code} before its tests were done")
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    # A SIGKILL that is not ours comes from the kernel when memory runs out.
    kinds = {signal.SIGXCPU: "timeout", signal.SIGXFSZ: "output", signal.SIGKILL: "memory"}
    return Outcome(kinds.get(-code, "error"), f"killed by {name}")  # type: ignore[call-overload]


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
