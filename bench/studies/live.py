"""The cost of the live view: `diffucode generate` with it and with `--no-live`, in turns.

    python -m bench.studies.live -m pocket

Each run is a separate process on a pseudo-terminal of `--columns` by `--rows`. Its time is that of its trace, from the
first step to the last, so loading does not count. Prints the median and quartiles of the ratio of the two times, the ratio
of the shortest times (least disturbed by other work on the machine), and the share of time that the view reports for
drawing. That share is an upper bound: drawing overlaps with forwards. Ends with one line of JSON. Not covered: the time a
terminal takes to draw its input.
"""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import typer

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.formatting import format_seconds
from mlx_diffucoder.trace.reader import read_trace
from mlx_diffucoder.trace.run import Trace

from .terminal import one_line

PROMPT = "Write a function f(nums) that returns the sum of the squares of the even numbers in nums."


def in_a_terminal(command: list[str], columns: int, rows: int) -> str:
    """The output of a command on a terminal of this size. Raises `BenchError` if it fails."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (rows, columns))
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written = b""
    try:
        while chunk := os.read(master, 65536):
            written += chunk
    except OSError:  # the other end was closed
        pass
    finally:
        os.close(master)
    if process.wait():
        last = written.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        raise BenchError(f"{' '.join(command[:4])} failed: {last[0]}")
    return written.decode(errors="replace")


def run(arguments: list[str], shown: bool, columns: int, rows: int) -> tuple[Trace, float]:
    """A generation's trace, and the share of its time that drawing took."""
    program = "import sys; from mlx_diffucoder.cli import main; sys.argv[0] = 'diffucode'; main()"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.jsonl"
        flags = ["--live" if shown else "--no-live", "--trace", str(file), "-v", PROMPT]
        written = in_a_terminal([sys.executable, "-c", program, "generate", *arguments, *flags], columns, rows)
        drawn = re.search(r"drawing the canvas +([\d.]+) %", written)
        return read_trace(file), float(drawn.group(1)) / 100 if drawn else 0.0


def main(
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option()] = "float32",
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    trials: Annotated[int, typer.Option(min=2, help="Pairs of runs.")] = 15,
    columns: Annotated[int, typer.Option(min=1)] = 80,
    rows: Annotated[int, typer.Option(min=1)] = 24,
) -> None:
    """Compare generations, one token a step, with the view and without."""
    arguments = ["-m", model, "--dtype", dtype, "--preset", "exact", "--max-tokens", str(max_tokens)]
    times: dict[bool, list[float]] = {False: [], True: []}
    shares: list[float] = []
    forwards = 0
    with one_line("live"):
        for trial in range(trials):
            order = (False, True) if trial % 2 else (True, False)
            pair = {shown: run(arguments, shown, columns, rows) for shown in order}
            for shown, (trace, share) in pair.items():
                times[shown].append(trace.seconds)
                shares += [share] if shown else []
                forwards = trace.stats.nfe
    ratios = [live / plain for plain, live in zip(times[False], times[True], strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    least, forward = min(times[True]) / min(times[False]), median(times[False]) / forwards
    print(f"{forwards} forwards of {format_seconds(forward)}, {trials} pairs of runs in turn")
    print(f"time with the view to without: {middle:.3f} (quartiles {low:.3f} to {high:.3f}); of the least times {least:.3f}")
    print(f"drawing: {100 * median(shares):.1f} % of the time, {100 * max(shares):.1f} % at most")
    report = {"model": model, "max_tokens": max_tokens, "columns": columns, "rows": rows, "trials": trials}
    report |= {"forward_ms": forward, "ratio": middle, "ratio_quartiles": [low, high], "ratio_of_least": least}
    print(json.dumps({**report, "drawing_share": median(shares), "drawing_share_most": max(shares)}))


if __name__ == "__main__":
    typer.run(main)
