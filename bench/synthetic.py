"""A folder like DiffuCoder-7B's on the Hub, of its full size, with random weights.

    python -m mlx_diffucoder.bench.synthetic OUT

Names, shapes, types and shards are those of the Hub's 15.2 GB; the numbers are noise, drawn and written
a few MB at a time. The tokenizer is that of `pocket`, whose 759 tokens are the first of the 152,064 rows.
Good for sizes, times and memory; what it generates means nothing.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import numpy as np
import typer
from huggingface_hub import split_state_dict_into_shards_factory

from mlx_diffucoder.checkpoint import INDEX
from mlx_diffucoder.convert.folder import check_disk, written_beside
from mlx_diffucoder.convert.shards import ShardWriter
from mlx_diffucoder.loading import POCKET, resolve

from .terminal import one_line

WIDTH, INNER, KV_WIDTH, VOCABULARY, LAYERS = 3584, 18944, 512, 152064, 28
SHARD = 5_000_000_000  # the most that the Hub's files hold
PIECE = 1 << 22  # weights drawn at once
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
LAYER = {
    "self_attn.q_proj.weight": (WIDTH, WIDTH),
    "self_attn.q_proj.bias": (WIDTH,),
    "self_attn.k_proj.weight": (KV_WIDTH, WIDTH),
    "self_attn.k_proj.bias": (KV_WIDTH,),
    "self_attn.v_proj.weight": (KV_WIDTH, WIDTH),
    "self_attn.v_proj.bias": (KV_WIDTH,),
    "self_attn.o_proj.weight": (WIDTH, WIDTH),
    "mlp.gate_proj.weight": (INNER, WIDTH),
    "mlp.up_proj.weight": (INNER, WIDTH),
    "mlp.down_proj.weight": (WIDTH, INNER),
    "input_layernorm.weight": (WIDTH,),
    "post_attention_layernorm.weight": (WIDTH,),
}


def weights(layers: int = LAYERS) -> dict[str, mx.array]:
    """DiffuCoder-7B's weights by name, as arrays that are never computed."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}
    return {name: mx.zeros(shape, dtype=mx.bfloat16) for name, shape in shapes.items()}


def config(layers: int = LAYERS) -> dict[str, Any]:
    """DiffuCoder-7B's `config.json`, with the special ids of the tokenizer that is put beside it."""
    pocket = json.loads((resolve(POCKET) / "config.json").read_text(encoding="utf-8"))
    return pocket | {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }


def write(out: Path, *, layers: int = LAYERS, seed: int = 0) -> None:
    """Write the folder, beside first and then renamed. Raises `ConvertError` where it exists or does not fit."""
    shapes = weights(layers)
    total = sum(value.nbytes for value in shapes.values())
    with written_beside(out) as unfinished:
        check_disk(out, unfinished, total)
        _write_weights(unfinished, shapes, np.random.default_rng(seed))
        for file in TOKENIZER:
            shutil.copyfile(resolve(POCKET) / file, unfinished / file)
        (unfinished / "config.json").write_text(json.dumps(config(layers), indent=2) + "\n", encoding="utf-8")


def _write_weights(folder: Path, shapes: dict[str, mx.array], generator: np.random.Generator) -> None:
    split = split_state_dict_into_shards_factory(
        shapes,
        get_storage_size=lambda value: value.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD,
    )
    shards = {file: {name: shapes[name] for name in names} for file, names in split.filename_to_tensors.items()}
    with ShardWriter(folder, shards, {"format": "pt"}) as writer:
        for name, value in shapes.items():
            for piece in _noise(generator, value.size, norm=name.endswith("norm.weight")):
                writer.write(name, piece)
        writer.finish()
    index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _noise(generator: np.random.Generator, count: int, *, norm: bool) -> Iterator[memoryview]:
    """bfloat16 numbers: normal with a deviation of 0.02, around 1 for a norm's weight."""
    for start in range(0, count, PIECE):
        numbers = generator.standard_normal(min(PIECE, count - start), dtype=np.float32)
        numbers *= 0.02
        if norm:
            numbers += 1
        upper = (numbers.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16 is a float32's upper half
        yield upper.data


def main(
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    layers: Annotated[int, typer.Option(min=1, help="Fewer make a smaller model.")] = LAYERS,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write a checkpoint of DiffuCoder-7B's size, with random weights."""
    with one_line("synthetic"):
        write(out, layers=layers, seed=seed)
    print(out)


if __name__ == "__main__":
    typer.run(main)
