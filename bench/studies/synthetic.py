"""Write a folder like DiffuCoder-7B's on the Hub, full size, with random weights.

    python -m bench.studies.synthetic OUT

Names, shapes, dtypes and shards are those of the Hub's 15.2 GB; the numbers are random, drawn and written a few MB at a
time. The tokenizer is that of `pocket`, whose tokens are the first of the 152,064 rows. Use it to measure sizes, times and
memory; its output is meaningless.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import numpy as np
import typer
from huggingface_hub import split_state_dict_into_shards_factory

from mlx_diffucoder.checkpoint import INDEX
from mlx_diffucoder.convert.shards import ShardWriter
from mlx_diffucoder.files import check_disk, new_folder, read_json
from mlx_diffucoder.loading import POCKET, resolve

from .terminal import one_line

SHARD = 5_000_000_000  # the largest file on the Hub
PIECE = 1 << 22  # numbers drawn at once
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of DiffuCoder-7B."""

    width: int = 3584
    inner: int = 18944
    vocabulary: int = 152064
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4


def weights(sizes: Sizes) -> dict[str, mx.array]:
    """The weights by name, in the Hub's order, as lazy arrays that are never computed."""
    width, inner, kv_width = sizes.width, sizes.inner, sizes.width // sizes.heads * sizes.kv_heads
    layer = {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.q_proj.bias": (width,),
        "self_attn.k_proj.weight": (kv_width, width),
        "self_attn.k_proj.bias": (kv_width,),
        "self_attn.v_proj.weight": (kv_width, width),
        "self_attn.v_proj.bias": (kv_width,),
        "self_attn.o_proj.weight": (width, width),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (sizes.vocabulary, width)}
    for index in range(sizes.layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (sizes.vocabulary, width)}
    return {name: mx.zeros(shape, dtype=mx.bfloat16) for name, shape in shapes.items()}


def config(sizes: Sizes) -> dict[str, Any]:
    """`config.json`, with the special ids of the copied tokenizer."""
    return read_json(resolve(POCKET) / "config.json") | {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }


def write(out: Path, sizes: Sizes, *, seed: int = 0) -> None:
    """Write the folder. Raises `ConvertError` if it exists or does not fit on the disk."""
    shapes = weights(sizes)
    total = sum(value.nbytes for value in shapes.values())
    with new_folder(out) as unfinished:
        check_disk(out, unfinished, total)
        _write_weights(unfinished, shapes, np.random.default_rng(seed))
        for file in TOKENIZER:
            shutil.copyfile(resolve(POCKET) / file, unfinished / file)
        (unfinished / "config.json").write_text(json.dumps(config(sizes), indent=2) + "\n", encoding="utf-8")


def _write_weights(folder: Path, shapes: dict[str, mx.array], generator: np.random.Generator) -> None:
    split = split_state_dict_into_shards_factory(
        shapes,
        get_storage_size=lambda value: value.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD,
    )
    shards = {file: {name: shapes[name] for name in names} for file, names in split.filename_to_tensors.items()}
    with closing(ShardWriter(folder, shards, {"format": "pt"})) as writer:
        for name, value in shapes.items():
            for piece in _noise(generator, value.size, norm=name.endswith("norm.weight")):
                writer.write(name, piece)
        writer.finish()
    index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _noise(generator: np.random.Generator, count: int, *, norm: bool) -> Iterator[memoryview]:
    """bfloat16 numbers: normal with a standard deviation of 0.02, around 1 for the weights of norms."""
    for start in range(0, count, PIECE):
        numbers = generator.standard_normal(min(PIECE, count - start), dtype=np.float32)
        numbers *= 0.02
        if norm:
            numbers += 1
        upper = (numbers.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16 is a float32's upper half
        yield upper.data


def main(
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    layers: Annotated[int, typer.Option(min=1, help="Fewer make a smaller model.")] = Sizes.layers,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write a checkpoint of DiffuCoder-7B's size, with random weights."""
    with one_line("synthetic"):
        write(out, Sizes(layers=layers), seed=seed)
    print(out)


if __name__ == "__main__":
    typer.run(main)
