"""Predicted times of a forward that several Macs compute together (`--shard`), from a chip's ceilings and a link.

    tensor: seconds = forward of 1/N of the weights + exchanges x latency + bytes / bandwidth
    sequence: seconds = forward of 1/N of the rows, and the head by the first Mac + exchanges x latency + bytes / bandwidth

Nothing of it was measured by this project: latencies and bandwidths are those that others report, or assumed.
Over more than two Macs each exchange takes N - 1 times as long to begin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_diffucoder.choices import TILE
from mlx_diffucoder.errors import BenchError, one_of
from mlx_diffucoder.models.base import ModelConfig

from .ceilings import Ceilings
from .roofline import Work, forward_seconds, rows_of

BYTES = 2
"""Of a number that is exchanged."""


@dataclass(frozen=True)
class Connection:
    """A link between Macs.

    Attributes:
        about: for people.
        latency: seconds that an exchange takes to begin.
        bandwidth: bytes/s in each direction.
        evidence: where both are from.
    """

    about: str
    latency: float
    bandwidth: float
    evidence: str


LINKS = {
    "tb5": Connection("Thunderbolt 5 with RDMA (JACCL)", 10e-6, 6.9e9, "reported for JACCL: below 10 µs, 50 to 60 Gbit/s"),
    "tbtcp": Connection("Thunderbolt with TCP (ring)", 300e-6, 3e9, "reported: about 300 µs; bandwidth assumed"),
    "10gbe": Connection("10 Gbit/s Ethernet (ring)", 300e-6, 1.25e9, "latency assumed as over Thunderbolt; the line's rate"),
}


def tensor_exchanges(shape: ModelConfig, link: Connection, hosts: int, rows: int) -> float:
    """Seconds of a tensor-parallel forward's exchanges: two sums a layer, those of embeddings and last states, and the logits."""
    states, logits = rows * shape.hidden_size * BYTES, rows * shape.vocab_size * BYTES
    sums = 2 * shape.num_hidden_layers + 2
    share = (hosts - 1) / hosts
    return (sums + 1) * link.latency + (2 * share * sums * states + share * logits) / link.bandwidth


def sequence_exchanges(shape: ModelConfig, link: Connection, hosts: int, rows: int) -> float:
    """Seconds of a sequence-parallel forward's exchanges: the fresh K/V of each layer, and the last states."""
    layers, kv = shape.num_hidden_layers, 2 * shape.num_key_value_heads * shape.head_dim
    sent = (hosts - 1) / hosts * rows * BYTES * (layers * kv + shape.hidden_size)
    return (layers + 1) * link.latency + sent / link.bandwidth


def together(ceilings: Sequence[Ceilings], work: Work, shape: ModelConfig, link: Connection) -> dict[str, list[dict[str, Any]]]:
    """The predicted forwards of machines that compute one model, by `--shard`; none for one that cannot divide it.

    Args:
        ceilings: of each machine. All wait for the slowest, and are compared with the first alone.
        link: an exchange over it takes `latency` to begin, whatever the number of machines.
    """
    hosts, head = len(ceilings), shape.vocab_size * shape.hidden_size
    found: dict[str, list[dict[str, Any]]] = {"tensor": [], "sequence": []}
    for rows in rows_of(shape.block_length):
        alone = forward_seconds(ceilings[0], work, rows)
        if not shape.num_key_value_heads % hosts:
            part = replace(work, parameters=work.parameters // hosts)
            seconds = max(forward_seconds(one, part, rows) for one in ceilings)
            found["tensor"].append(_forward(rows, alone, seconds, tensor_exchanges(shape, link, hosts, rows)))
        if rows <= TILE:  # each machine computes it whole
            found["sequence"].append(_forward(rows, alone, alone, 0.0))
            continue
        layers, its_head = replace(work, parameters=work.parameters - head), replace(work, parameters=head)
        seconds = max(forward_seconds(one, layers, math.ceil(rows / hosts)) for one in ceilings)
        seconds += forward_seconds(ceilings[0], its_head, rows) - ceilings[0].overhead
        found["sequence"].append(_forward(rows, alone, seconds, sequence_exchanges(shape, link, hosts, rows)))
    return found


def _forward(rows: int, alone: float, seconds: float, exchanges: float) -> dict[str, Any]:
    seconds += exchanges
    return {"rows": rows, "seconds": seconds, "exchanges": exchanges, "times_faster": alone / seconds}


def predict_hosts(ceilings: Ceilings, work: Work, shape: ModelConfig, hosts: int, name: str) -> dict[str, Any]:
    """The prediction for a model that `hosts` Macs of one kind compute together, ready for JSON.

    Returns:
        `forwards` are those of `--shard tensor`, empty where so many Macs cannot divide the model; `sequence` the others'.

    Raises:
        BenchError: there is no such link.
    """
    if name not in LINKS:
        raise BenchError(f"--link must be {one_of(list(LINKS), name)}", field="--link")
    link = LINKS[name]
    found = together([ceilings] * hosts, work, shape, replace(link, latency=(hosts - 1) * link.latency))
    about = {"hosts": hosts, "link": name, "about": link.about, "evidence": link.evidence}
    return {**about, "forwards": found["tensor"], "sequence": found["sequence"]}
