"""The ceilings of a chip: memory bandwidth and matmul rate, from a table or measured on this machine.

`chips.json` holds what Apple states and what llama.cpp reached, with the sources. Chips that are not in it can be
measured. The bandwidth is that of a large copy or of a large matrix times one row, whichever is faster; the matmul rate
is that of a large square matmul. Each is the best of several trials, so that other work does not lower a ceiling.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_diffucoder.errors import BenchError, did_you_mean

from .chip import Card
from .timing import Show, timings

TABLE = Path(__file__).parent / "chips.json"
TABLES = "table"
LONG_ENOUGH = 0.01
"""Seconds: shorter work would be dominated by the time to start it."""
TRIALS = 9


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What limits a forward.

    Attributes:
        chip: its name, for people.
        bandwidth: bytes/s at which weights are read.
        flops: matmul operations/s; a multiplication and an addition are two.
        overhead: seconds that a forward takes in addition to both.
        gb_per_s: the bandwidth that the maker states, in GB/s; None if unknown.
        source: where the numbers come from: the table, or measured on this machine.
    """

    chip: str
    bandwidth: float
    flops: float
    overhead: float = 0.0
    gb_per_s: float | None = None
    source: str

    def lines(self) -> list[str]:
        """Lines for people: a label and the number with its unit."""
        stated = f" of {self.gb_per_s:.0f} stated" if self.gb_per_s else ""
        return [
            f"{'bandwidth':10} {self.bandwidth / 1e9:.0f} GB/s{stated} ({self.source})",
            f"{'matmul':10} {self.flops / 1e12:.3g} TFLOP/s ({self.source})",
        ]


@cache
def table() -> dict[str, Any]:
    """The content of `chips.json`."""
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return content


def ceilings_of(chip: str, gpu_cores: int | None = None) -> Ceilings | None:
    """A chip's ceilings from the table, or None if the chip is not in it.

    Args:
        chip: its name, in full or short: `Apple M4 Max`, `m4 max`.
        gpu_cores: which bin; None takes the largest. A number between two bins takes the larger.
    """
    wanted = " ".join(chip.lower().removeprefix("apple").split())
    row = next((row for row in table()["chips"] if row["name"].lower() == f"apple {wanted}"), None)
    if row is None:
        return None
    bins = sorted(row["bins"], key=lambda one: one["gpu_cores"])
    cores = gpu_cores or bins[-1]["gpu_cores"]
    gb_per_s = next((one["gb_per_s"] for one in bins if one["gpu_cores"] >= cores), bins[-1]["gb_per_s"])
    fit = table()["fit"]
    of_generation = fit["generations"][row["name"].split()[1]]
    return Ceilings(
        chip=f"{row['name']} ({cores} GPU cores)",
        bandwidth=fit["bandwidth_share"] * gb_per_s * 1e9,
        flops=of_generation["tflops_per_gpu_core"] * cores * 1e12,
        overhead=of_generation["overhead_ms"] / 1e3,
        gb_per_s=gb_per_s,
        source=TABLES,
    )


def ceilings_named(name: str) -> Ceilings:
    """The ceilings of a chip that a user names: `M5 Max`, or with its GPU cores, `M5 Max 32`.

    Raises:
        BenchError: the chip is not in the table.
    """
    found = re.fullmatch(r"(.*?)(?:[\s,(]+(\d+)(?:[\s-]*(?:gpu\s*)?cores?)?\)?)?", name.strip(), re.I)
    chip, cores = (found.group(1), found.group(2)) if found else (name, None)
    row = ceilings_of(chip, int(cores) if cores else None)
    if row is None:
        raise BenchError(
            f"{name!r} is not in the table of chips: {', '.join(known_chips())}; on that machine itself, use"
            f" `diffucode bench predict here`{did_you_mean(chip, known_chips())}"
        )
    return row


def known_chips() -> list[str]:
    """The names of the chips in the table."""
    return [row["name"].removeprefix("Apple ") for row in table()["chips"]]


def ceilings_here(card: Card, show: Show, *, measure: bool) -> Ceilings:
    """This machine's ceilings: those of the table, or measured ones, with a note on stderr, if the chip is not in it.

    Args:
        measure: measure them in any case.
    """
    known = ceilings_of(card.chip, card.gpu_cores) if card.backend == "Metal" else None
    if known and not measure:
        return known
    if not known:
        print(f"{card.chip}: not in the table of chips; measuring its ceilings", file=sys.stderr)
    with show("measuring bandwidth and matmul"):
        return measure_ceilings(card.chip)


def measure_ceilings(chip: str) -> Ceilings:
    """Measure the ceilings of MLX's default device. It takes seconds.

    Args:
        chip: its name, for people.
    """
    # A GPU's matmul is built for 16 bits; MLX's CPU backend has no fast one for them.
    dtype = mx.bfloat16 if mx.default_device().type == mx.DeviceType.gpu else mx.float32

    def square(side: int) -> mx.array:
        return mx.random.normal((side, side)).astype(dtype)

    # Adding 1 to a large array reads and writes it. A row times a large matrix reads the matrix, as a forward of one
    # position does.
    copied, copying = _long_enough(mx.add, lambda size: (mx.zeros(size << 18), 1), (64, 256, 1024))
    read, reading = _long_enough(
        mx.matmul, lambda side: (mx.zeros((1, side), dtype), mx.zeros((side, side), dtype).T), (2048, 4096, 8192, 16384)
    )
    side, multiplying = _long_enough(mx.matmul, lambda side: (square(side), square(side)), (512, 1024, 2048, 4096, 8192))
    return Ceilings(
        chip=chip,
        bandwidth=max(2 * (copied << 20) / copying, dtype.size * read**2 / reading),
        flops=2 * side**3 / multiplying,
        source=f"measured here in {str(dtype).removeprefix('mlx.core.')}",
    )


def _long_enough(operation: Callable[..., Any], operands: Callable[[int], Any], sizes: Sequence[int]) -> tuple[int, float]:
    """The first size at which an operation takes long enough, or the last size, and the least seconds that it took."""
    for size in sizes:
        given = operands(size)
        mx.eval(given)
        seconds = timings(partial(_compute, operation, *given), TRIALS).low
        if seconds > LONG_ENOUGH:
            break
    return size, seconds


def _compute(operation: Callable[..., Any], *operands: Any) -> None:
    mx.eval(operation(*operands))
