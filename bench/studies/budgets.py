"""What each number of rows of the window `tree` costs on each chip, relative to 32 rows: why 32 is the default everywhere.

    python -m bench.studies.budgets

The forwards an answer takes were measured (docs/results/decoding.md, "The tree": 200 unseen compositions, `pocket` in float32).
The time of a forward is computed, as `bench predict` has it for a 7B. The first forward is left out: it holds the prompt, and so
costs much the same for all. Not covered: a 7B takes other numbers of forwards; `bench tune` measures them.
"""

from collections.abc import Iterator
from itertools import product

import typer

from mlx_diffucoder.bench.ceilings import ceilings_of, known_chips
from mlx_diffucoder.bench.roofline import Work, forward_seconds
from mlx_diffucoder.bench.shapes import SHAPES, bits_per_weight

FORWARDS = {8: 8.36, 32: 4.63, 64: 4.28, 128: 4.13}
"""Rows -> forwards of an answer, at the same quality: with 8 rows only what was verified is committed, else also from 0.95."""
DEFAULT = 32


def costs() -> Iterator[tuple[str, int, dict[int, float]]]:
    """The chip, the bits of a weight, and by rows the time of an answer as a multiple of the default's."""
    shape = SHAPES["7b"].config
    forwarded = shape.parameters - shape.vocab_size * shape.hidden_size  # of embeddings few are read
    for name, bits in product(known_chips(), (4, 8, 16)):
        if ceilings := ceilings_of(name):
            work = Work(parameters=forwarded, bits_per_weight=bits_per_weight(bits))
            seconds = {rows: (count - 1) * forward_seconds(ceilings, work, rows) for rows, count in FORWARDS.items()}
            yield name, bits, {rows: one / seconds[DEFAULT] for rows, one in seconds.items()}


def main() -> None:
    """Print what an answer takes with each number of rows, as a multiple of what it takes with 32."""
    print(f"{'computed, not measured':22}" + "".join(f"{rows:>8} rows" for rows in FORWARDS))
    for name, bits, by_rows in costs():
        print(f"{name:10} {bits:3} bits   " + "".join(f"{one:13.2f}" for one in by_rows.values()))


if __name__ == "__main__":
    typer.run(main)
