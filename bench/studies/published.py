"""The predicted speeds against those that others published.

    python -m bench.studies.published

prints every published row of `bench/chips.json` next to its prediction, and marks those that are off by more than 25 %. No
row was measured by this project, and the constants of the prediction are fitted to these rows.
"""

from collections.abc import Iterator
from typing import Any

import typer

from mlx_diffucoder.bench.ceilings import Ceilings, ceilings_of, known_chips, table
from mlx_diffucoder.bench.roofline import CLOSE, Work, checks, forward_seconds, generation_seconds
from mlx_diffucoder.bench.shapes import SHAPES


def without_chip(parameters: int) -> Iterator[str]:
    """Lines on the published speeds whose chip is not stated: one for each chip that it could be, then those not predicted."""
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
        yield f"{name}: autoregressive {', '.join(parts)}"
    for row in (row for row in rows if row not in alone and "steps" not in row):
        yield f"{row['what']}: published {row['tokens_per_s']}, not predicted: how many positions it forwards is not stated"


def _alone(ceilings: Ceilings, parameters: int, row: dict[str, Any]) -> float:
    """Autoregressive tokens/s."""
    return 1 / forward_seconds(ceilings, Work(parameters=parameters, bits_per_weight=row["bits"]), 1)


def _fits(ceilings: Ceilings, parameters: int, row: dict[str, Any]) -> bool:
    return abs(_alone(ceilings, parameters, row) / row["tokens_per_s"][0] - 1) <= CLOSE


def _plain(ceilings: Ceilings, parameters: int, row: dict[str, Any], prompt: int) -> float:
    """Tokens/s, padding included, when every step forwards the whole canvas."""
    work = Work(parameters=parameters, bits_per_weight=row["bits"])
    seconds = generation_seconds(ceilings, work, row["steps"], row["steps"] * (prompt + row["canvas"]))
    return row["canvas"] / seconds


def main() -> None:
    """Compare the speeds that others published with the predictions of `diffucode bench predict`."""
    found = list(checks())
    print("predicted against published (no row was measured by this project; the model's constants are fitted to them)")
    for check in found:
        print(check.line())
    off = [check for check in found if abs(check.error) > CLOSE]
    print(f"{len(found) - len(off)} of {len(found)} within {CLOSE:.0%}")
    print("where the chip is not stated, the chips that could be it; predicted tokens/s (published ones):")
    for line in without_chip(SHAPES["7b"].config.parameters):
        print(line)


if __name__ == "__main__":
    typer.run(main)
