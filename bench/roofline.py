"""Predicted times from a chip's ceilings: what a forward, and an answer, take at best.

    seconds of a forward of w rows = max(weight bytes / bandwidth, 2 x parameters x w / matmul rate) + overhead

On an Apple GPU the cost is a staircase in rows: from 10 to 32 rows cost the same, a tile, and 33 rows cost two tiles. The steps
are in `chips.json`, with the public measurements they come from; nothing of it was measured by this project.

Not covered: attention, whose work grows with the square of the rows; that `lm_head` runs on fewer rows; sampling.
`bench/studies/published.py` compares this model with every published row of `chips.json`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_diffucoder.errors import BenchError, one_of

from .ceilings import Ceilings, ceilings_of, table
from .shapes import SHAPES, bits_per_weight

ROWS = (1, 8, 16, 24, 31, 32, 33, 40, 64, 65, 128, 256, 512)
"""Where a staircase shows: before, on and after its steps."""
FIRST_OF_TILE = 10
"""From so many rows on, an Apple GPU multiplies a whole tile."""
CLOSE = 0.25
"""How far a prediction may be from a published speed, as a share, before it is marked as off."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The weights of a model that a forward reads and multiplies."""

    parameters: int
    bits_per_weight: float

    @property
    def bytes(self) -> float:
        return self.parameters * self.bits_per_weight / 8


def weights_seconds(ceilings: Ceilings, work: Work) -> float:
    """Seconds to read every weight once."""
    return work.bytes / ceilings.bandwidth


def matmul_seconds(ceilings: Ceilings, work: Work, rows: float) -> float:
    """Seconds to multiply every weight with `rows` rows."""
    return 2 * work.parameters * rows / ceilings.flops


def ideal_seconds(ceilings: Ceilings, work: Work, rows: float) -> float:
    """Seconds of a forward at the ceilings, without overhead or steps: the roofline."""
    return max(weights_seconds(ceilings, work), matmul_seconds(ceilings, work, rows))


def forward_seconds(ceilings: Ceilings, work: Work, rows: float, *, bfloat16: bool = False) -> float:
    """Seconds of one forward of `rows` rows: by the steps of an Apple GPU, otherwise by the roofline.

    Args:
        bfloat16: compute in bfloat16, which M1 and M2 emulate, instead of float16.
    """
    steps, generation = table()["staircase"], generation_of(ceilings.chip)
    slower = steps["bfloat16"] if bfloat16 and generation in (1, 2) else 1.0
    if generation is None:
        return ideal_seconds(ceilings, work, rows) + ceilings.overhead
    reading = weights_seconds(ceilings, work)
    tile = max(reading, slower * matmul_seconds(ceilings, work, tiled(FIRST_OF_TILE, generation)))
    if rows >= FIRST_OF_TILE:
        seconds = max(reading, slower * matmul_seconds(ceilings, work, tiled(rows, generation)))
    elif generation in (1, 2):  # every row reads the weights
        seconds = min(tile, reading * rows)
    else:
        at, took = zip(*steps["few"], strict=True)
        share = (float(np.interp(rows, at, took)) - took[0]) / (took[-1] - took[0])
        seconds = reading + share * (tile - reading)
    return seconds + ceilings.overhead


def tiled(rows: float, generation: int) -> int:
    """The rows that an Apple GPU of a generation multiplies, at the fitted rate, where a forward has `rows`, 10 or more."""
    steps = table()["staircase"]
    if generation < 5:
        return math.ceil(rows / steps["tile"]) * int(steps["tile"])
    return next((int(cost) for most, cost in steps["m5"] if rows <= most), math.ceil(rows / 64) * 64)


def generation_of(chip: str) -> int | None:
    """The generation of an Apple chip by its name, 4 for `Apple M4 Max`; None for another chip."""
    found = re.match(r"Apple M(\d+)", chip)
    return int(found.group(1)) if found else None


def evidence_of(chip: str, rows: int) -> str:
    """What a predicted time of a forward of `rows` rows rests on."""
    generation = generation_of(chip)
    if generation is None:
        return "the ceilings measured here; tiles are not known"
    if rows == 1:
        return "bandwidth and overhead, fitted to llama.cpp's published speeds"
    if rows >= 256 or (generation > 4 and rows > 128):
        return "matmul rate, fitted to llama.cpp's published speeds"
    if rows < FIRST_OF_TILE:
        if generation < 3:
            return "computed: MLX's kernels read the weights for every row; no public measurement"
        return "steps measured on an M3 Max, in mlx pull request 3863; bits do not matter (issue 3852)"
    if generation > 4:
        return "computed from MLX's choice of kernels; 32 rows were measured on an M5, in mlx pull request 4171"
    other = "" if generation == 3 else "; MLX has the same tile on this chip"
    return f"tiles of 32 rows measured on an M3 Max, in mlx pull request 3863{other}; fitted matmul rate"


def generation_seconds(ceilings: Ceilings, work: Work, nfe: int, positions: int) -> float:
    """Seconds of `nfe` forwards of `positions` positions in all, as if all were of one size; uneven ones take longer."""
    return nfe * forward_seconds(ceilings, work, positions / nfe)


def break_even(ceilings: Ceilings, work: Work) -> float:
    """Useful tokens that a tile of rows must give so that denoising is as fast as one token after the other."""
    return forward_seconds(ceilings, work, table()["staircase"]["tile"]) / forward_seconds(ceilings, work, 1)


def break_even_in_blocks(ceilings: Ceilings, work: Work, length: int) -> float | None:
    """Useful tokens that a forward must give so that denoising in blocks is as fast as one token after the other.

    A block of `length` tokens takes one forward of two blocks, and some of one block.

    Returns:
        None where not even one forward a block is as fast.
    """
    one, block, both = (forward_seconds(ceilings, work, rows) for rows in (1, length, 2 * length))
    forwards = 1 + (length * one - both) / block
    return length / forwards if forwards >= 1 else None


@dataclass(frozen=True, kw_only=True)
class Check:
    """A published speed and the predicted one, in tokens/s."""

    chip: str
    what: str
    bits: float
    published: float
    predicted: float
    source: str

    @property
    def error(self) -> float:
        """How far the prediction is above (or, if negative, below) the published speed, as a share."""
        return self.predicted / self.published - 1

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "error": self.error, "close": abs(self.error) <= CLOSE}

    def line(self) -> str:
        """A line for people."""
        off = "" if abs(self.error) <= CLOSE else f"  off by more than {CLOSE:.0%}"
        return (
            f"{self.chip:15} {self.what:9} {self.bits:5.1f} bits  published {self.published:7.1f} tokens/s,"
            f" predicted {self.predicted:7.1f}, {self.error:+6.1%}{off}"
        )


def checks(chip: str | None = None) -> Iterator[Check]:
    """Compare every published prompt and generation speed of a chip, or of all chips, with the prediction."""
    for row in table()["published"]:
        ceilings = ceilings_of(row["chip"], row["gpu_cores"]) if chip in (None, row["chip"]) else None
        if ceilings is None:  # another chip, or one that is not in the table
            continue
        work = Work(parameters=table()["measured_model"]["parameters"], bits_per_weight=row["bits"])
        predicted = {"prompt": 512 / forward_seconds(ceilings, work, 512), "generate": 1 / forward_seconds(ceilings, work, 1)}
        for what, tokens_per_s in predicted.items():
            if what in row:
                yield Check(
                    chip=row["chip"],
                    what=what,
                    bits=row["bits"],
                    published=row[what],
                    predicted=tokens_per_s,
                    source=row["source"],
                )


def predict_shape(
    ceilings: Ceilings, bits: int, nfe: int | None = None, positions: int | None = None, name: str = "7b"
) -> dict[str, Any]:
    """The prediction for a model on a chip, ready for JSON, with the published speeds of the same chip.

    Args:
        name: of `SHAPES`; DiffuCoder-7B without one.
        bits: a weight; 16 for floats.
        nfe: with `positions`, predict an answer of so many forwards too.
        positions: of these forwards in all.

    Raises:
        BenchError: there is no such shape; only one of `nfe` and `positions` is given, or there are fewer positions than
            forwards.
    """
    if (nfe is None) != (positions is None):
        raise BenchError("--nfe and --positions go together: how many forwards, and of how many positions in all", field="--nfe")
    work = work_of(name, bits)
    shape = SHAPES[name].config
    weights, each = shape.parameters, work.bits_per_weight
    prediction: dict[str, Any] = {"shape": name, "bits": bits, "parameters": weights, "weight_bytes": weights * each / 8}
    prediction |= predict(ceilings, work, shape.block_length)
    if shape.block_length:
        least = break_even_in_blocks(ceilings, work, shape.block_length)
        prediction |= {"block_length": shape.block_length, "break_even_tokens_per_forward": least}
    if nfe and positions:
        if positions < nfe:
            raise BenchError(
                f"--positions must be at least --nfe, not {positions}: a forward has one position or more", field="--positions"
            )
        seconds = generation_seconds(ceilings, work, nfe, positions)
        prediction["generation"] = {"nfe": nfe, "positions": positions, "seconds": seconds}
    prediction["published"] = [check.to_dict() for check in published(ceilings)]
    return prediction


def work_of(name: str, bits: int) -> Work:
    """The weights of a shape that a forward reads: of embeddings few rows are, unless they are the head too.

    Raises:
        BenchError: there is no such shape, or no such bits.
    """
    if name not in SHAPES:
        raise BenchError(f"--shape must be {one_of(list(SHAPES), name)}", field="--shape")
    shape = SHAPES[name].config
    embeddings = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    return Work(parameters=shape.parameters - embeddings, bits_per_weight=bits_per_weight(bits))


def published(ceilings: Ceilings) -> list[Check]:
    """The published speeds of a chip, next to predictions for the same model."""
    return list(checks(ceilings.chip.partition(" (")[0]))


def rows_of(block_length: int) -> list[int]:
    """The rows to show of a model's forwards: `ROWS`, and those of one block and two where it has blocks."""
    return sorted({*ROWS, block_length, 2 * block_length} - {0})


def predict(ceilings: Ceilings, work: Work, block_length: int = 0) -> dict[str, Any]:
    """The prediction for a chip and the weights that a forward reads, ready for JSON."""
    forwards = [
        {
            "rows": rows,
            "seconds": forward_seconds(ceilings, work, rows),
            "seconds_in_bfloat16": forward_seconds(ceilings, work, rows, bfloat16=True),
            "evidence": evidence_of(ceilings.chip, rows),
        }
        for rows in rows_of(block_length)
    ]
    return {
        "predicted": True,
        "ceilings": asdict(ceilings),
        "bits_per_weight": work.bits_per_weight,
        "forward_bytes": work.bytes,
        "forwards": forwards,
        "tile": table()["staircase"]["tile"],
        "autoregressive_tokens_per_second": 1 / forward_seconds(ceilings, work, 1),
        "break_even_tokens_per_tile": break_even(ceilings, work),
    }
