"""Memory of a process that answers many prompts.

    python -m bench.studies.many_prompts

answers `--prompts` prompts of different lengths with the bundled model, one after the other, and prints the memory that MLX holds
and that of the process as it goes. MLX's cache of freed buffers is emptied before each look. Fails if either grows by more than
`--allowed` MB between the first fifth and the end. Ends with one line of JSON.
"""

import json
import os
import subprocess
from typing import Annotated

import mlx.core as mx
import typer

from mlx_diffucoder import GenerationConfig, generate, load
from mlx_diffucoder.formatting import format_bytes

TEXT = "Write a function f that returns the sum of the squares of the even numbers in a list of lists of numbers "


def held() -> tuple[int, int]:
    """Bytes that MLX holds, and that the process has in memory."""
    mx.clear_cache()
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True).stdout
    return mx.get_active_memory(), 1024 * int(said)


def main(
    prompts: Annotated[int, typer.Option(min=10)] = 500,
    max_tokens: Annotated[int, typer.Option(min=1)] = 24,
    allowed: Annotated[float, typer.Option(min=0, help="MB.")] = 30.0,
) -> None:
    """Answer prompts, and watch the memory."""
    model, tokenizer = load("pocket")
    each = prompts // 5
    seen = []
    for number in range(1, prompts + 1):
        text = (5 * TEXT)[number % 100 : number % 100 + 10 + 7 * number % 300]
        generate(model, tokenizer, text, GenerationConfig.preset("balanced", max_tokens=max_tokens, seed=number))
        if number % each == 0:
            seen.append(held())
            active, process = map(format_bytes, seen[-1])
            print(f"{number:5} prompts: MLX holds {active}, the process has {process}", flush=True)
    grown = {name: last - first for name, first, last in zip(("mlx_bytes", "process_bytes"), seen[0], seen[-1], strict=True)}
    print(json.dumps({"prompts": prompts, "grown": grown, "seen": seen, "device": str(mx.default_device())}))
    if max(grown.values()) > allowed * 1e6:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
