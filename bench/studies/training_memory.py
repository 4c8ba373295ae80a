"""Memory of LoRA training at DiffuCoder-7B's shape, by arithmetic: nothing is allocated.

    python -m bench.studies.training_memory --bits 4

prints a row for each batch size, with and without gradient checkpointing, and ends with one line of JSON.
`tests/training/test_memory.py` compares the arithmetic with MLX's measured peak at small shapes.
"""

import json
from typing import Annotated, Any

import mlx.nn as nn
import typer

from mlx_diffucoder.bench.shapes import SHAPES
from mlx_diffucoder.formatting import format_bytes
from mlx_diffucoder.loading import DTYPES
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.training.learners import Tuning, add_adapters
from mlx_diffucoder.training.memory import memory_to_train
from mlx_diffucoder.training.recompute import recompute_layers
from mlx_diffucoder.training.settings import TrainSettings
from mlx_diffucoder.training.trainer import make_optimizer


def main(
    bits: Annotated[int, typer.Option(help="Bits of the weights; 16 keeps them floats.")] = 4,
    rank: Annotated[int, typer.Option(help="Rank of the adapters, on all layers.")] = 8,
    length: Annotated[int, typer.Option(help="Length of a canvas.")] = 256,
    batch: Annotated[list[int] | None, typer.Option(help="Canvases per forward; repeatable.", show_default="1, 4")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "bfloat16",
) -> None:
    """Compute the memory of LoRA training at the 7B's shape."""
    rows: list[dict[str, Any]] = []
    model = DiffusionModel(SHAPES["7b"].config)  # lazy: its weights are never computed
    if bits < 16:
        nn.quantize(model, group_size=64, bits=bits)
    model.set_dtype(DTYPES[dtype])
    add_adapters(model, Tuning(tune="lora", rank=rank), 0)
    for checkpointing in (False, True):
        if checkpointing:
            recompute_layers(model)
        for size in batch or (1, 4):
            memory = memory_to_train(model, make_optimizer(TrainSettings(steps=1)), batch=size, length=length)
            rows.append({"batch": size, "gradient_checkpointing": checkpointing, **memory.to_dict()})
            parts = ", ".join(f"{name} {format_bytes(count)}" for name, count in memory.to_dict().items())
            print(f"batch {size}{', gradient checkpointing' if checkpointing else ''}: {parts}")
    print(json.dumps({"bits": bits, "rank": rank, "length": length, "dtype": dtype, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
