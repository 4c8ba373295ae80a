"""Make the reference that `diffucode doctor` compares this machine with, without MLX's arithmetic.

    python -m bench.studies.make_reference bench/tasks/functions.jsonl bench/reference.safetensors

`forward` is a plain model in NumPy's float64 with the weights of the bundled checkpoint, and `decode` is the reference
decoder around it. The file holds the answers of `decode`, and the logits of `forward` at a few masked positions of canvases
that are partly filled with these answers. For quantized weights, `forward` has those of `quantized_on_cpu`, dequantized.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import typer
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from mlx_diffucoder.bench.self_test import ANSWERS, CANVASES, FILE, QUANTIZED, quantized_on_cpu
from mlx_diffucoder.config import EPS
from mlx_diffucoder.decoding.rules.schedule import commit_share
from mlx_diffucoder.formatting import format_bytes
from mlx_diffucoder.loading import POCKET, load
from mlx_diffucoder.models.base import ModelConfig
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.tokenizer import Tokenizer

ROWS = 5
"""Masked positions whose logits are recorded, of each canvas."""
ANSWER_ON_CANVAS = 24
"""Positions of the answer on a canvas whose logits are recorded."""
ANSWER_LENGTH = 32
"""Positions of a recorded answer."""

Weights = dict[str, NDArray[np.float64]]


def weights_of(model: DiffusionModel) -> Weights:
    """The weights by name, in float64; quantized ones are dequantized."""
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
    """The logits `[L, V]` of one canvas of `L` tokens.

    Args:
        rounded: is applied to both sides of each multiplication by weights, to see what less precision does.
    """
    round_ = rounded or (lambda x: x)

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return round_(x) @ round_(weights[f"{name}.weight"]).T + weights.get(f"{name}.bias", np.zeros(1))

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
    """Full attention; queries in groups that share keys and values."""
    length, group = len(q), config.num_attention_heads // config.num_key_value_heads
    q, k, v = (one.reshape(length, -1, config.head_dim).swapaxes(0, 1) for one in (q, k, v))  # [heads, L, head_dim]
    q, k = _rotate(config, q), _rotate(config, k)
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(config.head_dim)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    out: NDArray[np.float64] = scores / scores.sum(-1, keepdims=True) @ v
    return out.swapaxes(0, 1).reshape(length, -1)


def _rotate(config: ModelConfig, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotary positions, half-split: dimension i is rotated with dimension i + head_dim / 2."""
    half = config.head_dim // 2
    turns = np.arange(x.shape[1])[:, None] * config.rope_theta ** (-np.arange(half) / half)  # [L, half]
    cos, sin = np.cos(turns), np.sin(turns)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def decode(config: ModelConfig, weights: Weights, tokenizer: Tokenizer, prompt: list[int], length: int) -> list[int]:
    """The reference decoder's greedy answer: one step for each of `length` positions, the least entropy first.

    As in `--preset exact`, ids without a token and the mask are never written, and padding follows the end of the text.
    Source: Dream, arXiv 2508.15487; the schedule is `commit_share`.
    """
    start, mask = len(prompt), tokenizer.mask_id
    tokens = prompt + [mask] * length
    forbidden = np.setdiff1d(np.arange(config.vocab_size), np.setdiff1d(tokenizer.known_ids, [mask]))
    for index in range(length):
        masked = [position for position, token in enumerate(tokens) if token == mask]
        count = int(len(masked) * commit_share(index, length, EPS))
        if not count:
            continue
        logits = forward(config, weights, tokens)[[position - 1 for position in masked]]  # one row to the left: the shift
        logits[:, forbidden] = -np.inf
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        entropy = -(probs * np.log(probs + 1e-10)).sum(-1)
        for row in np.argsort(entropy, kind="stable")[:count]:
            tokens[masked[row]] = int(probs[row].argmax())
    answer = tokens[start:]
    end = next((position for position, token in enumerate(answer) if token in tokenizer.end_ids), length)
    return answer[: end + 1] + [tokenizer.pad_id] * (length - end - 1)


def canvas_of(prompt: list[int], answer: list[int], mask: int) -> tuple[list[int], list[int]]:
    """A canvas with two of three answer tokens masked, and the rows whose logits predict some of the masks."""
    start = len(prompt)
    masked = [index for index in range(ANSWER_ON_CANVAS) if index % 3]
    tokens = prompt + [mask if index in masked else token for index, token in enumerate(answer[:ANSWER_ON_CANVAS])]
    chosen = masked[:: len(masked) // ROWS][:ROWS]
    return tokens, [start + index - 1 for index in chosen]  # one row to the left: the shift


def make(prompts: list[str]) -> dict[str, mx.array]:
    """The arrays of the file, from the prompts of `ANSWERS` tasks."""
    arrays: dict[str, mx.array] = {}
    model, tokenizer = load(POCKET, dtype="float32")
    weights, config = weights_of(model), model.config
    answers = [(ids, decode(config, weights, tokenizer, ids, ANSWER_LENGTH)) for ids in map(tokenizer.encode_chat, prompts)]
    for number, (prompt, output) in enumerate(answers):
        arrays[f"answer.{number}.prompt"], arrays[f"answer.{number}.output"] = mx.array(prompt), mx.array(output)
    for kind in ("float32", *QUANTIZED):
        if kind in QUANTIZED:
            weights = weights_of(quantized_on_cpu(load(POCKET, dtype="float32")[0], QUANTIZED[kind]))
        for number, (prompt, output) in enumerate(answers[:CANVASES]):
            tokens, rows = canvas_of(prompt, output, tokenizer.mask_id)
            logits = forward(config, weights, tokens)[rows]
            arrays[f"canvas.{number}.tokens"], arrays[f"canvas.{number}.rows"] = mx.array(tokens), mx.array(rows)
            arrays[f"canvas.{number}.logits.{kind}"] = mx.array(logits.astype(np.float32))
    return arrays


def prompts_of(tasks: Path) -> list[str]:
    """The first prompts of a task file."""
    with tasks.open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in islice(lines, ANSWERS)]


def main(
    tasks: Annotated[Path, typer.Argument(help="Tasks, JSONL; the first three are answered.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")] = FILE,
) -> None:
    """Write the reference of the self-test of `diffucode doctor`."""
    arrays = make(prompts_of(tasks))
    mx.save_safetensors(str(out), arrays)
    print(f"{out}: {len(arrays)} arrays, {format_bytes(out.stat().st_size)}")


if __name__ == "__main__":
    typer.run(main)
