"""Predicted times of a forward that several Macs compute together (`--shard tensor`), from a chip's ceilings and a link.

    seconds = forward of 1/N of the weights + exchanges x latency + bytes / bandwidth

Nothing of it was measured by this project: latencies and bandwidths are those that others report, or assumed.
Over more than two Macs each exchange takes N - 1 times as long to begin.
"""

from dataclasses import dataclass, replace
from typing import Any

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


def exchange_seconds(shape: ModelConfig, link: Connection, hosts: int, rows: int) -> float:
    """Seconds of a forward's exchanges: two sums a layer, those of embeddings and last states, and the logits."""
    states, logits = rows * shape.hidden_size * BYTES, rows * shape.vocab_size * BYTES
    sums = 2 * shape.num_hidden_layers + 2
    share = (hosts - 1) / hosts
    sent = 2 * share * sums * states + share * logits
    return (hosts - 1) * (sums + 1) * link.latency + sent / link.bandwidth


def predict_hosts(ceilings: Ceilings, work: Work, shape: ModelConfig, hosts: int, name: str) -> dict[str, Any]:
    """The prediction for a model that `hosts` Macs of one kind compute together, ready for JSON.

    Raises:
        BenchError: there is no such link, or so many Macs cannot divide the model.
    """
    if name not in LINKS:
        raise BenchError(f"--link must be {one_of(list(LINKS), name)}", field="--link")
    if shape.num_key_value_heads % hosts:
        raise BenchError(
            f"--hosts must divide the model's {shape.num_key_value_heads} K/V heads, which {hosts} does not", field="--hosts"
        )
    link, part, forwards = LINKS[name], replace(work, parameters=work.parameters // hosts), []
    for rows in rows_of(shape.block_length):
        exchanges = exchange_seconds(shape, link, hosts, rows)
        seconds = forward_seconds(ceilings, part, rows) + exchanges
        alone = forward_seconds(ceilings, work, rows)
        forwards.append({"rows": rows, "seconds": seconds, "exchanges": exchanges, "times_faster": alone / seconds})
    return {"hosts": hosts, "link": name, "about": link.about, "evidence": link.evidence, "forwards": forwards}
