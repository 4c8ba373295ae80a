"""Predicted times, from a chip's ceilings: what a forward, and a generation, should take at best.

    seconds of a forward of w positions = max(weight bytes / bandwidth, 2 x parameters x w / matmul rate) + overhead

Not covered: attention, whose work grows with the square of the positions; `lm_head` being run on fewer rows;
sampling. `python -m mlx_diffucoder.bench.roofline` holds the model against every published row of `chips.json`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .ceilings import Ceilings, ceilings_of, known_chips, table

POSITIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CLOSE = 0.25
"""How far a prediction may be from what was published before it is said to be off."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A network's weights, as they are read and multiplied."""

    parameters: int
    bits_per_weight: float

    @property
    def bytes(self) -> float:
        return self.parameters * self.bits_per_weight / 8


def weights_seconds(ceilings: Ceilings, work: Work) -> float:
    """Reading every weight once."""
    return work.bytes / ceilings.bandwidth


def matmul_seconds(ceilings: Ceilings, work: Work, positions: float) -> float:
    """Multiplying every weight with so many positions."""
    return 2 * work.parameters * positions / ceilings.flops


def forward_seconds(ceilings: Ceilings, work: Work, positions: float) -> float:
    """One forward of so many positions."""
    return max(weights_seconds(ceilings, work), matmul_seconds(ceilings, work, positions)) + ceilings.overhead


def generation_seconds(ceilings: Ceilings, work: Work, nfe: int, positions: int) -> float:
    """`nfe` forwards of `positions` in all, as if each had as many: uneven ones take longer."""
    return nfe * forward_seconds(ceilings, work, positions / nfe)


def free_positions(ceilings: Ceilings, work: Work) -> float:
    """How many positions a forward has in the time of reading the weights."""
    return weights_seconds(ceilings, work) / matmul_seconds(ceilings, work, 1)


def break_even(ceilings: Ceilings, work: Work) -> float:
    """Positions per useful token at which denoising is as fast as one token after the other."""
    return forward_seconds(ceilings, work, 1) / matmul_seconds(ceilings, work, 1)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A published speed, in tokens/s, beside the predicted one."""

    chip: str
    what: str
    bits: float
    published: float
    predicted: float
    source: str

    @property
    def error(self) -> float:
        """By how much the prediction is above (or below) what was published, as a share."""
        return self.predicted / self.published - 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "error": self.error, "close": abs(self.error) <= CLOSE}

    def line(self) -> str:
        """For people."""
        off = "" if abs(self.error) <= CLOSE else f"  off by more than {CLOSE:.0%}"
        return (
            f"{self.chip:15} {self.what:9} {self.bits:5.1f} bits  published {self.published:7.1f} tokens/s,"
            f" predicted {self.predicted:7.1f}, {self.error:+6.1%}{off}"
        )


def checks(chip: str | None = None) -> Iterator[Check]:
    """Every published prompt and generation speed of a chip, or of all, and what the model makes of it."""
    for row in table()["published"]:
        if chip not in (None, row["chip"]):
            continue
        ceilings = ceilings_of(row["chip"], row["gpu_cores"])
        if ceilings is None:  # a row of a chip that the table does not have
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


def predict(ceilings: Ceilings, work: Work) -> dict[str, Any]:
    """What is predicted for a chip and a network, as JSON can hold it."""
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
        "ceilings": ceilings.to_dict(),
        "parameters": work.parameters,
        "bits_per_weight": work.bits_per_weight,
        "weight_bytes": work.bytes,
        "forwards": forwards,
        "free_positions": free_positions(ceilings, work),
        "autoregressive_tokens_per_second": 1 / forward_seconds(ceilings, work, 1),
        "break_even_positions_per_useful_token": break_even(ceilings, work),
    }


def without_chip(parameters: int) -> Iterator[str]:
    """The published speeds whose chip is not stated: a line for each chip that could be it, and for what is not predicted."""
    rows = table()["published_without_chip"]
    alone = [row for row in rows if row["what"].startswith("Qwen")]
    for name in known_chips():
        ceilings = ceilings_of(name)
        if ceilings is None or not all(_fits(ceilings, parameters, row) for row in alone):
            continue
        parts = [f"{_alone(ceilings, parameters, row):.1f} ({row['tokens_per_s'][0]})" for row in alone]
        for row in (row for row in rows if "steps" in row):
            low, high = (_plain(ceilings, parameters, row, prompt) for prompt in (200, 0))
            published = "{} to {}".format(*row["tokens_per_s"])
            parts.append(f"{row['what']} {low:.1f} with a prompt of 200 tokens to {high:.1f} with none ({published})")
        yield f"{name}: one token after the other {', '.join(parts)}"
    for row in (row for row in rows if row not in alone and "steps" not in row):
        yield f"{row['what']}: published {row['tokens_per_s']}, not predicted: how many positions it forwards is not stated"


def _alone(ceilings: Ceilings, parameters: int, row: dict[str, Any]) -> float:
    """Tokens/s, one after the other."""
    return 1 / forward_seconds(ceilings, Work(parameters=parameters, bits_per_weight=row["bits"]), 1)


def _fits(ceilings: Ceilings, parameters: int, row: dict[str, Any]) -> bool:
    return abs(_alone(ceilings, parameters, row) / row["tokens_per_s"][0] - 1) <= CLOSE


def _plain(ceilings: Ceilings, parameters: int, row: dict[str, Any], prompt: int) -> float:
    """Tokens/s, padding counted, of a whole canvas forwarded in every step."""
    work = Work(parameters=parameters, bits_per_weight=row["bits"])
    seconds = generation_seconds(ceilings, work, row["steps"], row["steps"] * (prompt + row["canvas"]))
    return row["canvas"] / seconds


def main() -> None:
    """Print every published row beside its prediction, and the worst."""
    from .shapes import SHAPES, parameters

    found = list(checks())
    print("predicted against published (no row was measured by this project; the model's constants are fitted to them)")
    for check in found:
        print(check.line())
    off = [check for check in found if abs(check.error) > CLOSE]
    print(f"{len(found) - len(off)} of {len(found)} within {CLOSE:.0%}")
    print("where the chip is not stated, the chips that could be it; predicted tokens/s (published ones):")
    for line in without_chip(parameters(SHAPES["7b"])):
        print(line)


if __name__ == "__main__":
    main()
