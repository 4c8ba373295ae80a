"""The child process: runs one answer and its tests, and reports the outcome.

`execute.py` starts this file as a script (`python -I runner.py FD`) and passes the job on stdin, a JSON
object with `code`, `tests`, `token` and the limits. It imports nothing from this package.

The verdict goes to the file descriptor FD: the token after every test has passed, otherwise a JSON list of
the kind of failure and one line of detail.
"""

import errno
import json
import os
import resource
import signal
import sys
import types
from typing import Any

# Python's ways to start or signal processes. C code can bypass them; RLIMIT_NPROC and the kill of the group remain.
REFUSED = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.killpg",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "subprocess.Popen",
}
OUT_OF_MEMORY = b'["memory", "MemoryError"]\n'  # prepared now: later there may be no memory for it


def main() -> None:
    """Read the job, set the limits, run it, report, and exit without waiting for what the answer started."""
    # Local copies: the answer may replace the originals.
    me, getpid, write, leave = os.getpid(), os.getpid, os.write, os._exit
    verdict = int(sys.argv[1])
    os.set_inheritable(verdict, False)
    job = json.loads(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.argv = ["answer.py"]
    limit(job)
    sys.addaudithook(refuse)
    report = run(job["code"], job["tests"], f"{job['token']}\n".encode())
    if getpid() == me:
        write(verdict, report)
    leave(0)


def limit(job: dict[str, Any]) -> None:
    """Set the kernel's limits for this process and its children."""
    seconds = int(job["timeout"]) + 2  # the parent watches the clock; this is for what outlives it
    signal.alarm(seconds)
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: job["output_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    if sys.platform != "darwin":  # macOS refuses or ignores it
        limits[resource.RLIMIT_AS] = job["memory_bytes"]
    for which, wanted in limits.items():
        hard = resource.getrlimit(which)[1]  # may be lower already and must not be raised
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (most, most))


def refuse(event: str, args: tuple[Any, ...]) -> None:
    if event in REFUSED:
        raise PermissionError(f"{event} is not allowed here")


def run(code: str, tests: str, token: bytes) -> bytes:
    """Run both in one module that is not `__main__`, as the benchmarks do. Returns the verdict."""
    module = types.ModuleType("answer")
    sys.modules["answer"] = module  # dataclasses look up their module
    wrong = "error"
    try:
        exec(compile(code, "answer.py", "exec"), module.__dict__)
        wrong = "wrong"
        exec(compile(tests, "tests.py", "exec"), module.__dict__)
    except MemoryError:
        return OUT_OF_MEMORY
    except AssertionError as error:
        return tell(wrong, f"AssertionError: {error} {line_of(error, tests)}")
    except BaseException as error:  # also SystemExit and KeyboardInterrupt
        kind = "output" if isinstance(error, OSError) and error.errno == errno.EFBIG else "error"
        return tell(kind, f"{type(error).__name__}: {error}")
    return token


def line_of(error: BaseException, tests: str) -> str:
    """The line of the tests in which an error was raised."""
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "tests.py":
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = tests.splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def tell(kind: str, detail: str) -> bytes:
    return json.dumps([kind, " ".join(detail[:300].split()).rstrip(" :")]).encode() + b"\n"


if __name__ == "__main__":
    main()
