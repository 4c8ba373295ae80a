"""What the machines of a hostfile are, whether they can work together, and what that would gain."""

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..bench.ceilings import ceilings_of
from ..bench.roofline import predict_shape
from ..decoding.result import TILE
from ..errors import ClusterError
from .hostfile import Host, read_hosts
from .measure import LARGE, LONGEST, SMALL, ring_of, shown_command
from .processes import ANSWERS, WorkerProcess, check_versions


def check_hosts(path: Path, shape: str, bits: int) -> dict[str, Any]:
    """Ask every machine of a hostfile what it is, and measure the link between them.

    Args:
        shape, bits: of the model to predict for, as for `bench.roofline.predict_shape`.

    Returns:
        JSON-ready. `machines` have their `name`, `versions`, `card` and `error`. `link` is what was measured, None where it could
        not be. `many_answers` is the predicted gain over the first machine alone, None for chips that are not in the table.
        `launch` is the command that trains on all of them, None where the link was not measured.

    Raises:
        ClusterError: the file is no hostfile.
    """
    hosts = read_hosts(path)
    with ExitStack() as stack:
        machines: list[dict[str, Any]] = [{"name": host.name, **dict.fromkeys(("versions", "card", "error"))} for host in hosts]
        processes = [_started(host, machine, stack) for host, machine in zip(hosts, machines, strict=True)]
        until = time.monotonic() + ANSWERS
        for process, machine in zip(processes, machines, strict=True):
            _answer(process, machine, "versions", until)
        whole = not any(machine["error"] for machine in machines)
        ring = ring_of([host.ips for host in hosts], _free_port()) if whole else []
        for rank, (process, machine) in enumerate(zip(processes, machines, strict=True)):
            if process and not machine["error"]:
                process.begin({"measure": {"rank": rank, "ring": ring}})
        for process, machine in zip(processes, machines, strict=True):
            if not machine["error"]:
                _answer(process, machine, "card", time.monotonic() + ANSWERS)
        link = _link(processes) if ring and not any(machine["error"] for machine in machines) else None
    return {
        "machines": machines,
        "link": link,
        "many_answers": gain_of([machine["card"] for machine in machines], shape, bits),
        "launch": shown_command(path) if link and "error" not in link else None,
    }


def gain_of(cards: Sequence[dict[str, Any] | None], shape: str, bits: int) -> float | None:
    """How many times the answers of the first machine all machines write, predicted from their chips; None if one is unknown."""
    rates = []
    for card in cards:
        ceilings = ceilings_of(card["chip"], card["gpu_cores"]) if card and card["backend"] == "Metal" else None
        if ceilings is None:
            return None
        forwards = predict_shape(ceilings, bits, name=shape)["forwards"]
        rates.append(next(1 / one["seconds"] for one in forwards if one["rows"] == TILE))
    return sum(rates) / rates[0]


def _started(host: Host, machine: dict[str, Any], stack: ExitStack) -> WorkerProcess | None:
    try:
        process = WorkerProcess(host)
    except ClusterError as error:
        machine["error"] = str(error)
        return None
    stack.callback(lambda: process.wait(time.monotonic() + 1))
    stack.callback(process.close)
    return process


def _link(processes: Sequence[WorkerProcess | None]) -> dict[str, Any]:
    """The latency and the bandwidth that the slowest rank saw; `error` if MLX's ring does not connect."""
    until = time.monotonic() + LONGEST
    try:
        found = [process.hello(until) for process in processes if process]
    except ClusterError:
        return {"error": "MLX's ring does not connect; check the ips in the hostfile, and the firewalls"}
    small, large = (max(one[str(size)] for one in found) for size in (SMALL, LARGE))
    return {"latency_ms": 1e3 * small, "gb_per_s": LARGE / large / 1e9}


def _answer(process: WorkerProcess | None, machine: dict[str, Any], name: str, until: float) -> None:
    """Keep what a machine says next under a name, and what is wrong with it as its error."""
    if process is None:
        return
    try:
        machine[name] = process.hello(until)
        if name == "versions":
            check_versions(machine["name"], machine[name])
    except ClusterError as error:
        machine["error"] = str(error)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
