"""The cost of a step on top of the forward: sampling, the rule, the window's bookkeeping.

    python -m bench.studies.step

times the decision of one step (`step.take_steps`: forbidden ids, nucleus, token, scores, rule, the host's
one wait) on random logits of the given vocabulary, for several rules and filters, and a forward of the given
shape: one layer and `lm_head` are timed, and the forward is put together as `--layers` times the one
and once the other. Prints a table and ends with one line of JSON. Random weights of float32 (`--dtype`
takes another), random logits of which a few stand out, as a model's do.

Not covered: keys and values kept from before, which make a forward slower; so the shares are upper bounds.
"""

import json
from dataclasses import replace
from typing import Annotated, Any

import mlx.core as mx
import numpy as np
import typer

from mlx_diffucoder.bench.shapes import SHAPES
from mlx_diffucoder.bench.timing import timings
from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.step import StepInput, take_steps
from mlx_diffucoder.decoding.windows.base import ForwardOutput
from mlx_diffucoder.formatting import format_seconds
from mlx_diffucoder.loading import DTYPES
from mlx_diffucoder.models.base import ModelConfig
from mlx_diffucoder.models.transformer import DiffusionModel

# Name -> fields of GenerationConfig.
DECISIONS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "entropy bound": {"rule": "entropy-bound"},
    "schedule, margin": {"rule": "schedule", "alg": "topk_margin"},
    "balanced, top-k 50": {"top_k": 50},
    "balanced, top-p 0.95": {"top_p": 0.95},
    "balanced, top-p 0.95, temperature 0.4": {"top_p": 0.95, "temperature": 0.4},
}


class Given(DiffusionModel):
    """A network that puts out logits made before, so that only what follows is timed."""

    def __init__(self, config: ModelConfig, rows: mx.array):
        super().__init__(config)
        self.rows = rows

    def logits(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        return self.rows


def decision_time(fields: dict[str, Any], rows: int, vocab_size: int, dtype: mx.Dtype, trials: int) -> float:
    """Seconds of one decision on a window of `rows` masks."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, rows, vocab_size)).astype(np.float32)
    logits[..., :9] += rng.gumbel(size=(1, rows, 9)) * 4 + 12
    tiny = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        mask_token_id=vocab_size - 1,
    )
    model = Given(tiny, mx.array(logits).astype(dtype))
    config = GenerationConfig(seed=0, max_tokens=rows, window="whole", **fields)
    forbidden = mx.arange(vocab_size) >= vocab_size - 100
    tokens = np.full(2 * rows, vocab_size - 1, dtype=np.int32)
    positions = np.arange(rows, dtype=np.int32)
    masked = np.ones_like(positions, dtype=np.bool_)
    output = ForwardOutput(positions, masked, mx.zeros((1, rows, 2)), rows, (0, rows))
    given = StepInput(output, tokens, rule_for(config).open(), np.array([rows]), mx.random.key(0), config, forbidden)
    mx.eval(model.rows, forbidden)
    return timings(lambda: take_steps(model, [given]), trials).seconds


def forward_time(rows: int, layers: int, vocab_size: int, dtype: mx.Dtype, trials: int) -> float:
    """Seconds of a forward of `rows` positions through `layers` layers and `lm_head`."""
    config = replace(SHAPES["7b"].config, num_hidden_layers=1, vocab_size=vocab_size, mask_token_id=vocab_size - 1)
    model = DiffusionModel(config)
    model.set_dtype(dtype)
    layer, head = model.model.layers[0], model.lm_head
    mx.eval(layer.parameters(), head.parameters())
    x = mx.random.normal((1, rows, config.hidden_size)).astype(dtype)
    one = timings(lambda: mx.eval(layer(x, 0, 0, None, None)), trials)
    return layers * one.seconds + timings(lambda: mx.eval(head(x)), trials).seconds


def main(
    rows: Annotated[int, typer.Option(min=1, help="Masks in the window.")] = 16,
    layers: Annotated[int, typer.Option(min=1)] = 28,
    vocab: Annotated[int, typer.Option(min=1000)] = 152_064,
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "float32",
    trials: Annotated[int, typer.Option(min=1)] = 9,
) -> None:
    """Time the decisions and the forward they follow."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"one of {', '.join(DTYPES)}", param_hint="--dtype")
    forward = forward_time(rows, layers, vocab, DTYPES[dtype], trials)
    print(f"forward of {rows} positions: {format_seconds(forward)} ({layers} x one layer + lm_head, {dtype})")
    shares = {}
    for name, fields in DECISIONS.items():
        seconds = decision_time(fields, rows, vocab, DTYPES[dtype], trials)
        shares[name] = {"seconds": seconds, "share_of_forward": seconds / forward}
        print(f"{name:40} {format_seconds(seconds):>8} {100 * seconds / forward:6.2f} %", flush=True)
    print(
        json.dumps(
            {"rows": rows, "layers": layers, "vocab": vocab, "dtype": dtype, "forward_seconds": forward, "decisions": shares}
        )
    )


if __name__ == "__main__":
    typer.run(main)
