"""Memory of a generation on top of the weights, at DiffuCoder-7B's shape.

    python -m bench.studies.memory

makes a network of the 7B's widths and vocabulary with `--layers` layers (random weights of `--dtype`), denoises a
canvas of `--max-tokens` for a few steps, and prints MLX's peak minus the weights. The second number is its share of the
whole 7B's weights at 4.5 bits, with the K/V of the other layers added by arithmetic: nothing else of a forward grows with
the number of layers.

Not covered: the memory of Python and of MLX's libraries.
"""

import json
from dataclasses import replace
from itertools import islice
from typing import Annotated

import mlx.core as mx
import typer

from mlx_diffucoder.bench.shapes import SHAPES, bits_per_weight
from mlx_diffucoder.config import PRESETS, GenerationConfig
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.loop import denoise
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.device import synchronized
from mlx_diffucoder.formatting import format_bytes
from mlx_diffucoder.loading import DTYPES
from mlx_diffucoder.models.transformer import DiffusionModel

SHAPE = SHAPES["7b"].config
BYTES_4_BIT = SHAPE.parameters * bits_per_weight(4) / 8


def on_top_of_weights(model: DiffusionModel, prompt: int, config: GenerationConfig, steps: int) -> int:
    """Peak bytes of the first steps of a generation, minus those in use before."""
    mask = model.config.mask_token_id
    canvas = Canvas.of(range(prompt), config.max_tokens, mask_id=mask, pad_id=0, end_ids=frozenset())
    forbidden = mx.arange(model.config.vocab_size) >= mask
    mx.eval(forbidden)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    with synchronized():  # it waits for the forward that is queued when the loop is left
        for _step in islice(denoise(model, [canvas], rule_for(config), window_for(config), config, forbidden=forbidden), steps):
            pass
    return mx.get_peak_memory() - before


def cache_bytes(model: DiffusionModel, positions: int, layers: int) -> int:
    """Bytes of K/V for `positions` in `layers` layers, in bfloat16."""
    return 2 * 2 * layers * positions * model.config.num_key_value_heads * model.config.head_dim


def main(
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 100,
    layers: Annotated[int, typer.Option(min=1, help="Layers to create and run.")] = 2,
    steps: Annotated[int, typer.Option(min=2)] = 2,
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "bfloat16",
) -> None:
    """Measure each preset."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"one of {', '.join(DTYPES)}", param_hint="--dtype")
    model = DiffusionModel(replace(SHAPE, num_hidden_layers=layers))
    model.set_dtype(DTYPES[dtype])
    mx.eval(model.parameters())
    weights = mx.get_active_memory()
    print(f"weights: {format_bytes(weights)} ({layers} layers, {dtype}); the whole 7B at 4.5 bits: {format_bytes(BYTES_4_BIT)}")
    report = {}
    for name in PRESETS:
        config = GenerationConfig.preset(name, max_tokens=max_tokens, seed=0)
        measured = on_top_of_weights(model, prompt, config, steps)
        others = cache_bytes(model, prompt + max_tokens, SHAPE.num_hidden_layers - layers) if config.window != "whole" else 0
        share = (measured + others) / BYTES_4_BIT
        report[name] = {"measured_bytes": measured, "other_layers_bytes": others, "share_of_4_bit_weights": share}
        print(
            f"{name:10} {format_bytes(measured):>8} measured, {format_bytes(others):>8} more for 28 layers:"
            f" {100 * share:.1f} % of 4.5-bit weights",
            flush=True,
        )
    print(
        json.dumps(
            {"max_tokens": max_tokens, "prompt": prompt, "layers": layers, "dtype": dtype, "weights": weights, "presets": report}
        )
    )


if __name__ == "__main__":
    typer.run(main)
