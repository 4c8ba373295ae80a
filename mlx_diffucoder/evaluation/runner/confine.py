"""What a process that runs an answer or its tests may not do, inside a sandbox and without one.

The kernel's limits and the refusal of system calls (Linux on x86-64 and ARM64) hold for any code. The refusals in Python stop
Python code only. Without a sandbox they also keep files away that an answer does not need.
"""

import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

# Python's ways to start or signal processes, and to reach the network.
REFUSED = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"}
    | {"subprocess.Popen", "signal.pthread_kill", "resource.prlimit", "syslog.openlog", "syslog.syslog"}
    | {f"socket.{name}" for name in ("bind", "connect", "getaddrinfo", "gethostbyname", "sendmsg", "sendto")}
)
READING = frozenset({"open", "os.listdir", "os.scandir", "os.chdir"})
WRITING = frozenset(f"os.{name}" for name in ("chmod", "chown", "mkdir", "remove", "rmdir", "truncate", "utime"))
WRITING |= {"sqlite3.connect"}
WRITING_BOTH = frozenset({"os.link", "os.rename", "os.symlink"})
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOST_FILES = 256  # opened for writing
SET_OWNER = (8, 15)  # fcntl: who gets a file's signals

# System calls, by their numbers on x86-64 and on ARM64 (-1: it has none).
SYSCALLS = {
    **{
        "kill": (62, 129),
        "tkill": (200, 130),
        "tgkill": (234, 131),
        "rt_sigqueueinfo": (129, 138),
        "rt_tgsigqueueinfo": (297, 240),
    },
    **{"pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "setpriority": (141, 140)},
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "perf_event_open": (298, 241)},
    **{
        "fork": (57, -1),
        "vfork": (58, -1),
        "execve": (59, 221),
        "execveat": (322, 281),
        "unshare": (272, 97),
        "setns": (308, 268),
    },
    **{"socket": (41, 198), "io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282), "mount": (165, 40)},
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "open_by_handle_at": (304, 265)},
}
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # as the kernel names them, and the column above
CLONE, CLONE3, PRLIMIT = (56, 220), (435, 435), (302, 261)
CLONE_THREAD = 0x10000
X32 = 0x40000000  # another set of numbers begins here
LOAD, EQUAL, AT_LEAST, HAS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of classic BPF
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # offsets in the kernel's seccomp_data
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # refuse: EPERM; unknown: ENOSYS
SET_DUMPABLE, SET_SECCOMP, SET_DEATH_SIGNAL, NO_NEW_PRIVILEGES = 4, 22, 1, 38


def limit(job: dict[str, Any]) -> None:
    """Set the kernel's limits for this process."""
    seconds = int(job["timeout"]) + 2  # `execute` watches the clock; this is for what outlives it
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


def hide(parent: int | None) -> None:
    """Keep other processes of the user from reading or writing this one's memory and files; end when its parent does. Linux."""
    if library := _library():
        library.prctl(SET_DUMPABLE, 0, 0, 0, 0)
        library.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if parent not in (None, os.getppid()):  # it ended before it could be asked for
            os._exit(1)


def refuse_syscalls() -> None:
    """Give up root's privileges, and make system calls fail that start, signal or inspect processes, or reach the network."""
    library = _library()
    if not library or platform.machine() not in MACHINES:
        return
    import ctypes

    library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    library.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
    program = b"".join(struct.pack("=HBBI", *one) for one in _filter(*MACHINES[platform.machine()]))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    library.prctl(SET_SECCOMP, 2, header, 0, 0)


def _filter(machine: int, column: int) -> list[tuple[int, int, int, int]]:
    """Instructions of classic BPF: code, how many to skip if true, if false, and a value."""
    program = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, machine), (RETURN, 0, 0, REFUSE), (LOAD, 0, 0, NUMBER)]
    program += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, REFUSE)]
    for numbers in SYSCALLS.values():
        if numbers[column] >= 0:
            program += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE)]
    program += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, UNKNOWN)]  # the C library then calls clone
    for number, test, value in ((CLONE[column], HAS, CLONE_THREAD), (PRLIMIT[column], EQUAL, 0)):
        program += [(EQUAL, 0, 4, number), (LOAD, 0, 0, FIRST_ARGUMENT), (test, 1, 0, value)]
        program += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    return [*program, (RETURN, 0, 0, ALLOW)]


def _library() -> Any:
    """The C library; None where it is not Linux's or cannot be called."""
    if sys.platform == "linux":
        with suppress(ImportError, OSError):
            import ctypes

            return ctypes.CDLL(None, use_errno=True)
    return None


def watch_python(readable: Sequence[str] | None) -> None:
    """Refuse what Python code asks for.

    Args:
        readable: files and folders that may be read, besides the working directory, which may be written too. None: a sandbox
            decides that.
    """
    refused, watched, home, opened = REFUSED, READING | WRITING | WRITING_BOTH, os.path.realpath("."), [0]
    roots = tuple(os.path.realpath(path) for path in readable or ())
    realpath, fsdecode, error = os.path.realpath, os.fsdecode, PermissionError

    def inside(path: Any, *, writing: bool) -> bool:
        if isinstance(path, int) or path is None:
            return True
        real = realpath(fsdecode(path))
        allowed = (home,) if writing else (home, *roots)
        return real == "/dev/null" or any(real == root or real.startswith(root + "/") for root in allowed)

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event in refused or (event == "fcntl.fcntl" and args[1] in SET_OWNER):
            raise error(f"{event} is not allowed here")
        if readable is None or event not in watched:
            return
        writing = event not in READING or (event == "open" and bool((args[2] or 0) & WRITES))
        opened[0] += writing
        paths = args[:2] if event in WRITING_BOTH else args[:1]
        if opened[0] > MOST_FILES or not all(inside(path, writing=writing) for path in paths):
            raise error(f"{event}: {paths[0]!r} is not allowed here")

    sys.addaudithook(refuse)
