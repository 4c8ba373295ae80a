"""Predicted times from a chip's ceilings: what a forward, and an answer, take at best.

    seconds of a forward of w positions = max(weight bytes / bandwidth, 2 x parameters x w / matmul rate) + overhead

Not covered: attention, whose work grows with the square of the positions; that `lm_head` runs on fewer rows; sampling.
`bench/studies/published.py` compares this model with every published row of `chips.json`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mlx_diffucoder.errors import BenchError

from .ceilings import Ceilings, ceilings_of, table
from .shapes import SHAPES, bits_per_weight, parameters

POSITIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
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


def matmul_seconds(ceilings: Ceilings, work: Work, positions: float) -> float:
    """Seconds to multiply every weight with `positions` positions."""
    return 2 * work.parameters * positions / ceilings.flops


def ideal_seconds(ceilings: Ceilings, work: Work, positions: float) -> float:
    """Seconds of a forward at the ceilings, without overhead: the roofline."""
    return max(weights_seconds(ceilings, work), matmul_seconds(ceilings, work, positions))


def forward_seconds(ceilings: Ceilings, work: Work, positions: float) -> float:
    """Seconds of one forward of `positions` positions."""
    return ideal_seconds(ceilings, work, positions) + ceilings.overhead


def generation_seconds(ceilings: Ceilings, work: Work, nfe: int, positions: int) -> float:
    """Seconds of `nfe` forwards of `positions` positions in all, as if all were of one size; uneven ones take longer."""
    return nfe * forward_seconds(ceilings, work, positions / nfe)


def free_positions(ceilings: Ceilings, work: Work) -> float:
    """How many positions a forward can have in the time of reading the weights."""
    return weights_seconds(ceilings, work) / matmul_seconds(ceilings, work, 1)


def break_even(ceilings: Ceilings, work: Work) -> float:
    """Positions per useful token at which denoising is as fast as autoregressive decoding."""
    return forward_seconds(ceilings, work, 1) / matmul_seconds(ceilings, work, 1)


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


def predict_7b(ceilings: Ceilings, bits: int, nfe: int | None = None, positions: int | None = None) -> dict[str, Any]:
    """The prediction for DiffuCoder-7B on a chip, ready for JSON, with the published speeds of the same chip.

    Args:
        bits: a weight; 16 for floats.
        nfe: with `positions`, predict an answer of so many forwards too.
        positions: of these forwards in all.

    Raises:
        BenchError: only one of `nfe` and `positions` is given, or there are fewer positions than forwards.
    """
    if (nfe is None) != (positions is None):
        raise BenchError("--nfe and --positions go together: how many forwards, and of how many positions in all", field="--nfe")
    work = Work(parameters=parameters(SHAPES["7b"]), bits_per_weight=bits_per_weight(bits))
    prediction: dict[str, Any] = {"shape": "7b", "bits": bits, **predict(ceilings, work)}
    if nfe and positions:
        if positions < nfe:
            raise BenchError(
                f"--positions must be at least --nfe, not {positions}: a forward has one position or more", field="--positions"
            )
        seconds = generation_seconds(ceilings, work, nfe, positions)
        prediction["generation"] = {"nfe": nfe, "positions": positions, "seconds": seconds}
    prediction["published"] = [check.to_dict() for check in published(ceilings)]
    return prediction


def published(ceilings: Ceilings) -> list[Check]:
    """The published speeds of a chip, next to predictions for the same model."""
    return list(checks(ceilings.chip.partition(" (")[0]))


def predict(ceilings: Ceilings, work: Work) -> dict[str, Any]:
    """The prediction for a chip and a model's weights, ready for JSON."""
    reading = weights_seconds(ceilings, work)
    forwards = [
        {
            "positions": count,
            "seconds": forward_seconds(ceilings, work, count),
            "bound_by": "weights" if matmul_seconds(ceilings, work, count) <= reading else "matmul",
        }
        for count in POSITIONS
    ]
    return {
        "predicted": True,
        "ceilings": asdict(ceilings),
        "parameters": work.parameters,
        "bits_per_weight": work.bits_per_weight,
        "weight_bytes": work.bytes,
        "forwards": forwards,
        "free_positions": free_positions(ceilings, work),
        "autoregressive_tokens_per_second": 1 / forward_seconds(ceilings, work, 1),
        "break_even_positions_per_useful_token": break_even(ceilings, work),
    }
