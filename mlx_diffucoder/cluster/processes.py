"""The workers' processes, started here or over ssh, and ended with this one."""

import json
import os
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import ClusterError
from .hostfile import Host
from .worker import HELLO, versions

ANSWERS = 30.0
"""Seconds in which a machine must answer."""
SSH = ("ssh", "-T", "-4", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10")


class WorkerProcess:
    """A machine's worker. It ends when this process does, for its standard input ends then."""

    def __init__(self, host: Host):
        self.host = host
        command = ["env", *host.envs, host.python, "-P", "-m", "mlx_diffucoder.cluster.worker"]
        self._text = b""  # what it has printed and nobody has read
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command if host.here else [*SSH, host.ssh, shlex.join(command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # Ctrl-C is for this process
            )
        except OSError as error:
            raise ClusterError(f"{host.name}: ssh cannot be started ({error.strerror})") from None

    def hello(self, until: float) -> dict[str, Any]:
        """What the machine says next: first the versions that it has.

        Args:
            until: when it must have answered, by `time.monotonic`.

        Raises:
            ClusterError: it cannot be reached, has no such Python or package, or does not answer in time.
        """
        pipe, chunk = self._process.stdout, b"-"
        while pipe and (left := until - time.monotonic()) > 0:
            while b"\n" in self._text:
                line, _, self._text = self._text.partition(b"\n")
                if line.startswith(HELLO.encode()):
                    return json.loads(line[len(HELLO) :])
            if not chunk:
                raise self.failed("no worker starts there")
            if select.select([pipe], [], [], left)[0]:
                chunk = os.read(pipe.fileno(), 1 << 16)
                self._text += chunk
        raise ClusterError(f"{self.host.name}: does not answer in {ANSWERS:g} seconds; check that the machine is on")

    def begin(self, job: Mapping[str, Any]) -> None:
        """Send the line that it waits for."""
        if self._process.stdin:
            with suppress(BrokenPipeError):  # it has ended, and `poll` tells
                self._process.stdin.write(json.dumps({**job, "name": self.host.name, "ssh": not self.host.here}).encode() + b"\n")
                self._process.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def failed(self, what: str) -> ClusterError:
        """The error of a worker that ended, with the last line that it printed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {self._process.poll()}"
        if self._process.poll() == 255:
            return ClusterError(
                f"{self.host.name}: ssh cannot log in there ({last}); `ssh {self.host.ssh} true` must ask nothing"
            )
        return ClusterError(
            f'{self.host.name}: {what} ({last}); install "mlx-diffucoder[cluster]" there in {self.host.python}, or name another'
            ' Python with "python" in the hostfile'
        )

    def close(self) -> None:
        """Let it end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()

    def wait(self, until: float) -> None:
        """Wait until it has ended, and kill it if it has not by then."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()


@contextmanager
def started(hosts: Sequence[Host]) -> Iterator[list[WorkerProcess]]:
    """A process on each machine, all of which have answered and have the versions of this one.

    Raises:
        ClusterError: a machine does not answer, or has other versions.
    """
    processes: list[WorkerProcess] = []
    try:
        for host in hosts:
            processes.append(WorkerProcess(host))
        until = time.monotonic() + ANSWERS
        for one in processes:
            check_versions(one.host.name, one.hello(until))
        yield processes
    finally:
        for one in processes:
            one.close()
        until = time.monotonic() + 1.0
        for one in processes:
            one.wait(until)


def check_versions(name: str, there: Mapping[str, str]) -> None:
    """Raise `ClusterError` unless a machine has the same versions as this one."""
    for package, own in versions().items():
        if there.get(package) != own:
            raise ClusterError(
                f"{name}: has {package} {there.get(package)}, and this machine {own}; install the same version on all machines"
            )
