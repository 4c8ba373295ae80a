"""Signal and noise in a training step's gradient, for different ways to draw batches.

    python -m bench.studies.gradient_noise CHECKPOINT train.jsonl --least-t 0.02 --least-t 0.2 --infill 0.3 --infill 0

draws batches of the same texts for each pair of settings and compares their gradients: the signal |E g|² over the noise
E |g - E g|². While that ratio is far below 1, doubling it halves the texts needed to learn the same, approximately. Ends
with one line of JSON. The gradient is that of the layers' weights of a partly trained model; the ratios change over training.
"""

import json
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import mlx.nn as nn
import typer
from mlx.utils import tree_flatten

from mlx_diffucoder.errors import BenchError

from .terminal import one_line


def main(
    checkpoint: Annotated[str, typer.Argument(help="A partly trained model.")],
    data: Annotated[Path, typer.Argument(help="Texts, as diffucode train reads them.")],
    least_t: Annotated[list[float] | None, typer.Option(help="As for train; repeatable.", show_default="0.02, 0.2")] = None,
    infill: Annotated[list[float] | None, typer.Option(help="As for train; repeatable.", show_default="0")] = None,
    canvas: Annotated[str, typer.Option(help="As for train.")] = "random",
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    batches: Annotated[int, typer.Option(min=2, help="Gradients to compare.")] = 40,
    max_length: Annotated[int, typer.Option(min=8)] = 256,
    texts: Annotated[int, typer.Option(min=1, help="Use only this many texts.")] = 4000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Measure signal and noise of the gradient."""
    from mlx_diffucoder.loading import resolve
    from mlx_diffucoder.training.batches import Batches
    from mlx_diffucoder.training.job import Data
    from mlx_diffucoder.training.learners import Tuning, from_checkpoint
    from mlx_diffucoder.training.settings import TrainSettings

    with one_line("noise"):
        learner = from_checkpoint(resolve(checkpoint), checkpoint, Tuning(tune="full", dtype="float32"), seed)
        read = Data.read(data, None, learner.tokenizer, max_length=max_length, skip_long=True)
        pairs = list(product(least_t or (0.02, 0.2), infill or (0.0,)))
        same: dict[str, Any] = {"steps": 1, "batch_size": batch_size, "max_length": max_length, "canvas": canvas, "seed": seed}
        # All are checked before minutes are spent on the first.
        settings = [TrainSettings(**same, infill=share, least_t=least) for least, share in pairs]
        rows = []
        print(f"{'least-t':>8} {'infill':>7} {'signal':>8} {'noise':>8} {'ratio':>8} {'positions':>10}")
        for (least, share), chosen in zip(pairs, settings, strict=True):
            row = measure(learner.model, Batches([*read.train.kept][:texts], learner.tokenizer, chosen), batches)
            if not row["noise"] > 0:
                raise BenchError(f"{data}: the gradients of all batches are the same; give more texts")
            row["ratio"] = row["signal"] / row["noise"]
            rows.append({"least_t": least, "infill": share, **row})
            print(f"{least:8g} {share:7g} {row['signal']:8.4f} {row['noise']:8.3f} {row['ratio']:8.4f} {row['positions']:10.0f}")
    print(json.dumps({"model": checkpoint, "batches": batches, "batch_size": batch_size, "canvas": canvas, "rows": rows}))


def measure(model: Any, drawn: Any, batches: int) -> dict[str, float]:
    """Unbiased signal and noise over some batches; with few batches the signal can be negative."""
    from mlx_diffucoder.training.objective import loss

    model.train()
    gradient = nn.value_and_grad(model, lambda *arrays: loss(model, *arrays))
    total, squares, positions = mx.array(0.0), 0.0, 0
    for number in range(batches):
        (noised,) = drawn.draw(number)
        _, found = gradient(*noised.arrays())
        leaves: Any = tree_flatten(found)
        flat = mx.concatenate([value.reshape(-1) for name, value in leaves if "layers." in name])
        total = total + flat
        mx.eval(total)
        squares += float((flat * flat).sum())
        positions += noised.tokens.size
    mean = float((total * total).sum()) / batches**2
    noise = (squares - batches * mean) / (batches - 1)
    signal = mean - noise / batches
    return {"signal": signal, "noise": noise, "positions": positions / batches}


if __name__ == "__main__":
    typer.run(main)
