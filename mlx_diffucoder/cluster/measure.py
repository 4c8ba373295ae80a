"""What `diffucode cluster check` asks of each machine: its chip card, and the link to the others by MLX's ring."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

SMALL, LARGE = 4, 16 << 20
"""Bytes of the arrays that are summed: one shows the latency, the other the bandwidth."""
LONGEST = 30
"""Seconds after which a machine gives up measuring."""
SUMS = {SMALL: 200, LARGE: 7}


def measure(rank: int, ring: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    """This machine's card, then the median seconds of an all_sum by its bytes.

    Args:
        ring: the addresses of each rank, as MLX takes them; the link is not measured if there are none.
    """
    from ..bench.chip import read_card

    yield asdict(read_card())
    if ring:
        yield _link(rank, ring)


def _link(rank: int, ring: Sequence[Sequence[str]]) -> dict[str, float]:
    import mlx.core as mx

    # MLX waits for its peers for ever, and lets no other thread run meanwhile.
    signal.alarm(LONGEST)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as hosts:
        hosts.write(json.dumps(ring))
        hosts.flush()
        os.environ |= {"MLX_RANK": str(rank), "MLX_HOSTFILE": hosts.name}
        group = mx.distributed.init(strict=True, backend="ring")
        found = {}
        for size, count in SUMS.items():
            array, times = mx.zeros(size // 4), []
            for _ in range(count + 1):  # the first one connects
                start = time.perf_counter()
                mx.eval(mx.distributed.all_sum(array, group=group))
                times.append(time.perf_counter() - start)
            found[str(size)] = median(times[1:])
        return found


def ring_of(ips: Sequence[Sequence[str]], port: int) -> list[list[str]]:
    """The ring of machines, each with the first of its addresses; none if one has no address, or there is only one.

    Args:
        port: of the first machine; the others follow.
    """
    ring = [[f"{own[0]}:{port + rank}"] for rank, own in enumerate(ips) if own]
    return ring if len(ring) == len(ips) > 1 else []


def shown_command(path: Path) -> str:
    """The line that starts a training run on all machines."""
    return f"mlx.launch --hostfile {path} -- diffucode train --data FILE --accumulate N --out FOLDER"


def shown_shard(path: Path, shard: str) -> str:
    """The line that computes one model on all machines."""
    return f"mlx.launch --hostfile {path} -- diffucode generate --shard {shard} -m MODEL PROMPT"
