"""The file that names the machines of a cluster, in the form of `mlx.launch`."""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ClusterError
from ..file_kinds import read_bytes

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXAMPLE = '[{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": "mac2.local", "ips": ["192.168.1.2"]}]'


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        name: how it is shown: its `ssh`, with a number where the file names it more than once.
        ssh: what `ssh` takes; a loopback address is this machine.
        ips: the addresses that MLX's ring listens on.
        python: the Python that has this package there; by default the path of the one that runs here.
        envs: variables to set there, as `NAME=value`.
    """

    name: str
    ssh: str
    ips: tuple[str, ...] = ()
    python: str = sys.executable
    envs: tuple[str, ...] = ()

    @property
    def here(self) -> bool:
        """Whether it is this machine."""
        return self.ssh in LOOPBACK


def read_hosts(path: Path) -> list[Host]:
    """The machines of a hostfile: a list of `{"ssh": …, "ips": […]}`, or an object with `hosts` and `envs`.

    `python` of a machine is ours; mlx.launch ignores it. So are `backend` and `rdma` by us.

    Raises:
        ClusterError: the file cannot be read, or is not a hostfile; the message names the file and the entry.
    """
    try:
        found = json.loads(read_bytes(path, ClusterError))
    except (ValueError, RecursionError):
        raise ClusterError(f"{path}: is not JSON; a hostfile is {EXAMPLE}") from None
    envs = found.get("envs", []) if isinstance(found, dict) else []
    rows = found.get("hosts") if isinstance(found, dict) else found
    if not isinstance(rows, list) or not rows:
        raise ClusterError(f"{path}: names no machines; a hostfile is {EXAMPLE}")
    if not _texts(envs) or not all(re.match(r"[A-Za-z_]\w*=", one) for one in envs):
        raise ClusterError(f'{path}: envs must be a list of texts such as "NAME=value"')
    hosts, seen = [], Counter[str]()
    for number, row in enumerate(rows):
        ssh, ips, python = _checked(row, f"{path}: hosts[{number}]")
        seen[ssh] += 1
        name = f"{ssh} ({seen[ssh]})" if seen[ssh] > 1 else ssh
        hosts.append(Host(name, ssh, tuple(ips), python, tuple(envs)))
    return hosts


def _checked(row: Any, where: str) -> tuple[str, list[str], str]:
    """What an entry says. A name that begins with a dash would be an option of `ssh`."""
    if not isinstance(row, dict) or not isinstance(row.get("ssh"), str) or not re.fullmatch(r"[^\s-]\S*", row["ssh"]):
        raise ClusterError(f'{where} needs "ssh": the name or address of a machine, not {json.dumps(row)[:80]}')
    ips, python = row.get("ips", []), row.get("python", sys.executable)
    if not _texts(ips):
        raise ClusterError(f"{where}: ips must be a list of addresses, not {json.dumps(ips)[:80]}")
    if not isinstance(python, str) or not python:
        raise ClusterError(f"{where}: python must be the path of a Python, not {json.dumps(python)[:80]}")
    return row["ssh"], ips, python


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
