"""Time and memory of attention over a long prompt, whole and in chunks of queries.

    python -m bench.studies.long_prompts

runs the attention of one layer of DiffuCoder-7B (28 heads of 128, 4 of them with keys) over random queries, keys and values in
float32, once with all queries at a time and once as `models/attend.py` does it. Prints the seconds (the best of `--trials`),
MLX's peak on top of the inputs, and the largest difference of the results; ends with one line of JSON.

Not covered: the rest of a layer. On Metal MLX's kernel is fused and no chunks are made.
"""

import json
import time
from typing import Annotated

import mlx.core as mx
import numpy as np
import typer

from mlx_diffucoder.bench.shapes import SHAPES
from mlx_diffucoder.formatting import format_bytes, format_seconds
from mlx_diffucoder.models.attend import attend

SHAPE = SHAPES["7b"].config


def measured(arrays: tuple[mx.array, mx.array, mx.array], trials: int, *, chunked: bool) -> tuple[float, int, mx.array]:
    """The least seconds, the peak in bytes on top of the inputs, and the result."""
    seconds = []
    for _ in range(trials):
        mx.clear_cache()
        mx.reset_peak_memory()
        before, start = mx.get_active_memory(), time.perf_counter()
        if chunked:
            out = attend(*arrays, None)
        else:
            out = mx.fast.scaled_dot_product_attention(*arrays, scale=SHAPE.head_dim**-0.5, mask=None)
        mx.eval(out)
        seconds.append(time.perf_counter() - start)
        peak = mx.get_peak_memory() - before
    return min(seconds), peak, out


def main(
    lengths: Annotated[list[int] | None, typer.Argument(help="Tokens of a prompt.", show_default="512 1024 2048 4096")] = None,
    trials: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Measure attention at several lengths."""
    report = []
    for length in lengths or [512, 1024, 2048, 4096]:
        queries, keys, values = (
            mx.random.normal((1, heads, length, SHAPE.head_dim), key=mx.random.key(heads))
            for heads in (SHAPE.num_attention_heads, SHAPE.num_key_value_heads, SHAPE.num_key_value_heads)
        )
        arrays = queries, keys, values
        mx.eval(arrays)
        whole, chunked = (measured(arrays, trials, chunked=way) for way in (False, True))
        off = float(np.abs(np.array(whole[2]) - np.array(chunked[2])).max())
        texts = [f"{format_seconds(seconds)}, {format_bytes(peak)}" for seconds, peak, _ in (whole, chunked)]
        print(f"{length:5} tokens: whole {texts[0]}; in chunks {texts[1]}; largest difference {off:.1e}", flush=True)
        row = {"tokens": length, "difference": off}
        for name, (seconds, peak, _) in (("whole", whole), ("chunked", chunked)):
            row |= {f"{name}_seconds": seconds, f"{name}_bytes": peak}
        report.append(row)
    print(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
