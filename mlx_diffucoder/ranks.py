"""Which of several processes this one is, as `mlx.launch` says in variables."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import RankError

stderr = 2
"""Where the line of a failure is written. The command line moves it."""


def rank() -> int | None:
    """The rank of this process as `mlx.launch` gives it; None for a process that is on its own."""
    given = os.environ.get("MLX_RANK", "")
    return int(given) if given.isdecimal() else None


def is_follower() -> bool:
    """Whether another process leads this one, and owns the terminal."""
    return bool(rank())


@dataclass(frozen=True)
class Launch:
    """What `mlx.launch` says in variables.

    Attributes:
        rank: of this process.
        names: of all ranks, for messages.
        address: where rank 0 is reached.
        backend: of MLX: `ring` or `jaccl`.
    """

    rank: int
    names: tuple[str, ...]
    address: tuple[str, int]
    backend: str

    @classmethod
    def read(cls) -> "Launch":
        """Read the variables. Raises `RankError` where they are missing or wrong."""
        own = rank()
        file = next((name for name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES") if os.environ.get(name)), None)
        if own is None:
            raise RankError(
                "--shard divides a model among processes; start them with mlx.launch --hostfile hosts.json -- diffucode …",
                field="--shard",
            )
        if file is None:
            raise RankError("MLX_RANK is set without MLX_HOSTFILE; start the processes with mlx.launch --hostfile hosts.json")
        path = os.environ[file]
        try:
            hosts = json.loads(Path(path).read_text(encoding="utf-8") or "[]")  # of one process it is empty
            if isinstance(hosts, list) and len(hosts) < 2:
                raise RankError("MLX_RANK is set, but there is one process only; start two or more, or run it without mlx.launch")
            coordinator = os.environ.get("MLX_JACCL_COORDINATOR", "")
            first = hosts[0][0] if file == "MLX_HOSTFILE" else coordinator
            host, _, port = first.rpartition(":")
            ends = [one[0].rpartition(":")[0] if file == "MLX_HOSTFILE" else "" for one in hosts]
            address = host.strip("[]"), int(port)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise RankError(f"{path}: not a list of hosts as mlx.launch writes it into {file}") from None
        if own >= len(hosts):
            raise RankError(f"MLX_RANK is {own}, but {path} names {len(hosts)} hosts")
        names = tuple(f"rank {index} ({end})" if end else f"rank {index}" for index, end in enumerate(ends))
        return cls(own, names, address, "ring" if file == "MLX_HOSTFILE" else "jaccl")


ends: list[Callable[[int], None]] = []
"""What is called before the process ends, with its exit code."""
tells: list[Callable[[str], None]] = []
"""What takes the line of an error to the process that leads."""


def end(code: int = 0) -> None:
    """In the process that leads, let the others end. In the others, wait for that."""
    for one in ends:
        one(code)


def tell(line: str) -> None:
    """Let the process that leads print an error of this one."""
    for one in tells:
        one(line)


def wait_for_line() -> None:
    """After an error that a lost peer may have caused: give the thread that watches them the time to say so, and to end all."""
    if rank() is not None:
        time.sleep(1)
