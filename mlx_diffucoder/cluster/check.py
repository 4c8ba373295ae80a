"""What the machines of a hostfile are, whether they can work together, and what that would gain."""

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..bench.ceilings import Ceilings, ceilings_of
from ..bench.links import Connection, together
from ..bench.roofline import forward_seconds, work_of
from ..bench.shapes import SHAPES
from ..choices import TILE
from ..errors import ClusterError
from .hostfile import Host, read_hosts
from .measure import LARGE, LONGEST, SMALL, ring_of, shown_command, shown_shard
from .processes import ANSWERS, WorkerProcess, check_versions


def check_hosts(path: Path, shape: str, bits: int) -> dict[str, Any]:
    """Ask every machine of a hostfile what it is, and measure the link between them.

    Args:
        shape, bits: of the model to predict for, as for `bench.roofline.predict_shape`.

    Returns:
        JSON-ready. `machines` have their `name`, `versions`, `card` and `error`. `link` is what was measured, None where it could
        not be. `many_answers` is the predicted gain over the first machine alone, None for chips that are not in the table.
        `one_model` is as `one_model_of` returns it. `launch` is the command that trains on all of them, None where the link was
        not measured.

    Raises:
        ClusterError: the file is no hostfile.
        BenchError: there is no such shape.
    """
    work_of(shape, bits)  # refuses what it does not know, before the machines are asked
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
    cards = [machine["card"] for machine in machines]
    return {
        "machines": machines,
        "link": link,
        "many_answers": gain_of(cards, shape, bits),
        "one_model": one_model_of(cards, link, shape, bits, path),
        "launch": shown_command(path) if link and "error" not in link else None,
    }


def gain_of(cards: Sequence[dict[str, Any] | None], shape: str, bits: int) -> float | None:
    """How many times the answers of the first machine all machines write, predicted from their chips; None if one is unknown."""
    if not (ceilings := _ceilings_of(cards)):
        return None
    rates = [1 / forward_seconds(one, work_of(shape, bits), TILE) for one in ceilings]
    return sum(rates) / rates[0]


def one_model_of(
    cards: Sequence[dict[str, Any] | None], link: dict[str, Any] | None, shape: str, bits: int, path: Path
) -> list[dict[str, Any]]:
    """How many times faster than the first machine all compute one model, by `--shard`, predicted from the measured link.

    Returns:
        The `shard`, the `rows` of the forward, `times_faster`, and `launch`, the command to run. Empty if a chip or the link is
        unknown.
    """
    ceilings = _ceilings_of(cards)
    if not ceilings or not link or "error" in link:
        return []
    hosts = len(ceilings)
    # A sum sends each number twice, but for the share that a machine has.
    rate = 2 * (hosts - 1) / hosts * 1e9 * link["gb_per_s"]
    measured = Connection("", link["latency_ms"] / 1e3, rate, "measured")
    found = []
    for shard, forwards in together(ceilings, work_of(shape, bits), SHAPES[shape].config, measured).items():
        rows = TILE if shard == "tensor" else 2 * TILE
        if of_rows := [one["times_faster"] for one in forwards if one["rows"] == rows]:
            found.append({"shard": shard, "rows": rows, "times_faster": of_rows[0], "launch": shown_shard(path, shard)})
    return found


def _ceilings_of(cards: Sequence[dict[str, Any] | None]) -> list[Ceilings]:
    """The ceilings of each machine; empty if one is unknown."""
    found = [ceilings_of(card["chip"], card["gpu_cores"]) if card and card["backend"] == "Metal" else None for card in cards]
    return [one for one in found if one] if all(found) else []


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
