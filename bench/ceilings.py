"""What a chip can do at most: bandwidth and matmul rate, from the table or measured here.

`chips.json` holds what Apple states and what llama.cpp reached, with its sources. For a chip that is not
in it, and wherever it is asked for, the ceilings are measured: a large copy or a large matrix read for one row,
whichever is faster, and a large matmul, the best of several each: work beside it makes a ceiling no lower.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

from mlx_diffucoder.errors import BenchError, did_you_mean

TABLE = Path(__file__).parent / "chips.json"
TABLES = "table"
LONG_ENOUGH = 0.01  # seconds: below, starting the work would be a part of what is measured
TRIALS = 9


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What a forward runs under.

    Attributes:
        chip: whose they are, for people.
        bandwidth: bytes/s that weights are read at.
        flops: matmul operations/s, a multiplication and an addition being two.
        overhead: seconds that a forward takes beside both.
        gb_per_s: the bandwidth that the maker states, where it is known.
        source: where the numbers are from: the table, or measured on this machine.
    """

    chip: str
    bandwidth: float
    flops: float
    overhead: float = 0.0
    gb_per_s: float | None = None
    source: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    def or_better(self, again: Self) -> Self:
        """The higher of the same ceilings measured twice."""
        return replace(self, bandwidth=max(self.bandwidth, again.bandwidth), flops=max(self.flops, again.flops))

    @property
    def measured(self) -> bool:
        """Whether they were measured on this machine, and are not the table's."""
        return self.source != TABLES

    def lines(self) -> list[str]:
        """For people: a label and the number with its unit."""
        stated = f" of {self.gb_per_s:.0f} stated" if self.gb_per_s else ""
        return [
            f"{'bandwidth':10} {self.bandwidth / 1e9:.0f} GB/s{stated} ({self.source})",
            f"{'matmul':10} {self.flops / 1e12:.3g} TFLOP/s ({self.source})",
        ]


@cache
def table() -> dict[str, Any]:
    """`chips.json`."""
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return content


def ceilings_of(chip: str, gpu_cores: int | None = None) -> Ceilings | None:
    """A chip's ceilings by the table; None for one that is not in it.

    Args:
        chip: as the card has it, or short: `Apple M4 Max`, `m4 max`.
        gpu_cores: which bin; None is the largest. A number between two bins counts as the larger.
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
        BenchError: no such chip in the table.
    """
    found = re.fullmatch(r"(.*?)(?:[\s,(]+(\d+)(?:[\s-]*(?:gpu\s*)?cores?)?\)?)?", name.strip(), re.I)
    chip, cores = (found.group(1), found.group(2)) if found else (name, None)
    row = ceilings_of(chip, int(cores) if cores else None)
    if row is None:
        raise BenchError(
            f"{name!r} is not in the table of chips: {', '.join(known_chips())}; on that machine itself, use --predict here"
            f"{did_you_mean(chip, known_chips())}"
        )
    return row


def known_chips() -> list[str]:
    """The names in the table."""
    return [row["name"].removeprefix("Apple ") for row in table()["chips"]]


def measure(chip: str) -> Ceilings:
    """The ceilings of MLX's default device, measured: seconds of work."""
    import mlx.core as mx

    # 16 bits are what a GPU's matmul is made for, and what MLX's CPU backend has no fast one of.
    dtype = mx.bfloat16 if mx.default_device().type == mx.DeviceType.gpu else mx.float32
    kind = str(dtype).removeprefix("mlx.core.")
    return Ceilings(
        chip=chip, bandwidth=max(_copy_rate(), _read_rate(dtype)), flops=_matmul_rate(dtype), source=f"measured here in {kind}"
    )


def _copy_rate() -> float:
    """Bytes read and written a second, by adding 1 to a large array."""
    import mlx.core as mx

    from .timing import best

    for megabytes in (64, 256, 1024):
        x = mx.zeros(megabytes << 18, dtype=mx.float32)
        mx.eval(x)
        seconds = best(partial(_compute, mx.add, x, 1), TRIALS)
        if seconds > LONG_ENOUGH:
            break
    return 2 * x.nbytes / seconds


def _read_rate(dtype: Any) -> float:
    """Bytes read a second, by multiplying a large matrix with one row: what a forward of one position does."""
    import mlx.core as mx

    from .timing import best

    for side in (2048, 4096, 8192, 16384):
        row, matrix = mx.zeros((1, side), dtype=dtype), mx.zeros((side, side), dtype=dtype)
        mx.eval(row, matrix)
        seconds = best(partial(_compute, mx.matmul, row, matrix.T), TRIALS)
        if seconds > LONG_ENOUGH:
            break
    return matrix.nbytes / seconds


def _matmul_rate(dtype: Any) -> float:
    """Operations a second of a large square matmul."""
    import mlx.core as mx

    from .timing import best

    for side in (512, 1024, 2048, 4096, 8192):
        a = mx.random.normal((side, side)).astype(dtype)
        mx.eval(a)
        seconds = best(partial(_compute, mx.matmul, a, a), TRIALS)
        if seconds > LONG_ENOUGH:
            break
    return 2 * side**3 / seconds


def _compute(operation: Callable[..., Any], *operands: Any) -> None:
    import mlx.core as mx

    mx.eval(operation(*operands))
