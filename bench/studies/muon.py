"""Muon that orthogonalizes matrices in parallel, next to MLX's own Muon.

    python -m bench.studies.muon -m pocket

times the update of all of a checkpoint's layers by random gradients, both ways in turns, and prints the medians and whether
the weights are equal bit for bit. On a GPU there is one stream, so both are the same. Ends with one line of JSON.
"""

import json
import time
from statistics import median
from typing import Annotated, Any

import mlx.core as mx
import mlx.optimizers as optim
import typer
from mlx.utils import tree_flatten

from mlx_diffucoder.formatting import format_seconds

from .terminal import one_line


def main(
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    trials: Annotated[int, typer.Option(min=1)] = 9,
) -> None:
    """Measure both."""
    from mlx_diffucoder.loading import load
    from mlx_diffucoder.training.settings import TrainSettings
    from mlx_diffucoder.training.trainer import make_optimizer

    with one_line("muon"):
        network, _ = load(model, dtype="float32")
        leaves: Any = tree_flatten(network.parameters())
        weights = {name: value for name, value in leaves if value.ndim > 1 and "layers." in name}
        gradients = {name: mx.random.normal(value.shape) for name, value in weights.items()}
        ours: Any = make_optimizer(TrainSettings(steps=1, optimizer="muon", weight_decay=0.0)).optimizers[0]
        ways = {"side by side": ours, "one after the other": optim.Muon(ours.learning_rate.item(), weight_decay=0.0)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(trials + 1):
            found = {}
            for name, optimizer in ways.items():
                began = time.perf_counter()
                found[name] = optimizer.apply_gradients(gradients, weights)
                mx.eval(found[name], optimizer.state)
                seconds[name].append(time.perf_counter() - began)
            one, other = found.values()
            same = all(mx.array_equal(one[name], other[name]).item() for name in one)
    medians = {name: median(found[1:]) for name, found in seconds.items()}  # the first is a warm-up
    for name, taken in medians.items():
        print(f"{name:20} {format_seconds(taken)}")
    print(json.dumps({"model": model, "trials": trials, "matrices": len(weights), "same": same, "seconds": medians}))


if __name__ == "__main__":
    typer.run(main)
