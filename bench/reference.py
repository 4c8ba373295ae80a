"""What `diffucode doctor` holds this machine against, made away from MLX's arithmetic.

    python -m mlx_diffucoder.bench.reference tests/data/pocket_generations.jsonl bench/reference.safetensors

The logits are those of `forward`, a plain network in NumPy's float64, on the bundled checkpoint: a few masked
positions of canvases that are half filled with recorded answers. For quantized weights they are those of the
weights that `quantized_on_cpu` gives, dequantized. The answers are the recorded ones of the reference decoder.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import typer
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from mlx_diffucoder.config import ModelConfig
from mlx_diffucoder.loading import POCKET, load
from mlx_diffucoder.model import Dream

FILE = Path(__file__).parent / "reference.safetensors"
CANVASES = 2
ROWS = 5
ANSWER = 24
"""Canvases, masked positions that are looked at on each, and the length of the answer on them."""
QUANTIZED = {"8 bits": 8, "4 bits": 4}
ANSWERS = (7, 18, 0)
"""Which of the recorded answers are kept, the shortest first."""

Weights = dict[str, NDArray[np.float64]]


def quantized_on_cpu(model: Dream, bits: int) -> Dream:
    """The model with its layers quantized, in place, by the CPU: the same numbers on every machine."""
    with mx.stream(mx.cpu):
        nn.quantize(model, group_size=64, bits=bits)
        mx.eval(model.parameters())
    return model


def weights_of(model: Dream) -> Weights:
    """The weights as float64 by name, quantized ones dequantized."""
    leaves: Any = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    weights: Weights = {}
    with mx.stream(mx.cpu):
        for name, module in leaves:
            values = dict(module.parameters())
            if hasattr(module, "bits"):
                scales, biases = values.pop("scales"), values.pop("biases")
                values["weight"] = mx.dequantize(values["weight"], scales, biases, module.group_size, module.bits)
            weights |= {f"{name}.{part}": np.array(value.astype(mx.float32), np.float64) for part, value in values.items()}
    return weights


def forward(config: ModelConfig, weights: Weights, tokens: list[int], rounded: Any = None) -> NDArray[np.float64]:
    """The logits `[L, V]` of one canvas.

    Args:
        rounded: applied to both sides of each multiplication by weights, to see what less precision does.
    """
    cut = rounded or (lambda x: x)

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return cut(x) @ cut(weights[f"{name}.weight"]).T + weights.get(f"{name}.bias", np.zeros(1))

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * weights[f"{name}.weight"]

    x = weights["model.embed_tokens.weight"][tokens]  # [L, D]
    for index in range(config.num_hidden_layers):
        at = f"model.layers.{index}"
        y = norm(x, f"{at}.input_layernorm")
        q, k, v = (linear(y, f"{at}.self_attn.{part}_proj") for part in "qkv")
        x = x + linear(_attend(config, q, k, v), f"{at}.self_attn.o_proj")
        y = norm(x, f"{at}.post_attention_layernorm")
        gate = linear(y, f"{at}.mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
    return linear(norm(x, "model.norm"), head)


def _attend(config: ModelConfig, q: NDArray[np.float64], k: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every position to every other, queries in groups that share keys and values."""
    length, group = len(q), config.num_attention_heads // config.num_key_value_heads
    q, k, v = (one.reshape(length, -1, config.head_dim).swapaxes(0, 1) for one in (q, k, v))  # [heads, L, head_dim]
    q, k = _rotate(config, q), _rotate(config, k)
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(config.head_dim)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    out: NDArray[np.float64] = scores / scores.sum(-1, keepdims=True) @ v
    return out.swapaxes(0, 1).reshape(length, -1)


def _rotate(config: ModelConfig, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotary positions, half-split: dimension i turns with dimension i + head_dim / 2."""
    half = config.head_dim // 2
    turns = np.arange(x.shape[1])[:, None] * config.rope_theta ** (-np.arange(half) / half)  # [L, half]
    cos, sin = np.cos(turns), np.sin(turns)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def canvas_of(answer: dict[str, Any], mask: int) -> tuple[list[int], list[int]]:
    """A canvas with two of three answer tokens masked, and the rows that some of the masks are read from."""
    start, filled = len(answer["prompt_ids"]), answer["output_ids"][:ANSWER]
    masked = [place for place in range(ANSWER) if place % 3]
    tokens = answer["prompt_ids"] + [mask if place in masked else token for place, token in enumerate(filled)]
    chosen = masked[:: len(masked) // ROWS][:ROWS]
    return tokens, [start + place - 1 for place in chosen]  # one row to the left: the shift


def make(recorded: list[dict[str, Any]]) -> dict[str, mx.array]:
    """The arrays of the file."""
    arrays: dict[str, mx.array] = {}
    for kind in ("float32", *QUANTIZED):
        model, _ = load(POCKET, dtype="float32")
        if kind in QUANTIZED:
            quantized_on_cpu(model, QUANTIZED[kind])
        weights = weights_of(model)
        for number in range(CANVASES):
            tokens, rows = canvas_of(recorded[number], model.config.mask_token_id)
            logits = forward(model.config, weights, tokens)[rows]
            arrays[f"canvas.{number}.tokens"], arrays[f"canvas.{number}.rows"] = mx.array(tokens), mx.array(rows)
            arrays[f"canvas.{number}.logits.{kind}"] = mx.array(logits.astype(np.float32))
    for number, place in enumerate(ANSWERS):
        answer = recorded[place]
        arrays[f"answer.{number}.prompt"] = mx.array(answer["prompt_ids"])
        arrays[f"answer.{number}.output"] = mx.array(answer["output_ids"])
    return arrays


def main(
    recorded: Annotated[Path, typer.Argument(help="The reference decoder's recorded answers, JSONL.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")] = FILE,
) -> None:
    """Write the self-test's reference."""
    answers = [json.loads(line) for line in recorded.read_text(encoding="utf-8").splitlines()]
    arrays = make(answers)
    mx.save_safetensors(str(out), arrays)
    print(f"{out}: {len(arrays)} arrays, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
