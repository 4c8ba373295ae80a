"""What is measured: a network with what is known of its weights, from a checkpoint or made of noise in memory."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.loading import DTYPES, POCKET, memory_size, memory_to_run, resolve
from mlx_diffucoder.model import Dream
from mlx_diffucoder.tokenizer import Tokenizer

from .roofline import Work
from .shapes import SHAPES, bits_per_weight, parameters


@dataclass(frozen=True)
class Measured:
    """A network to measure. `random` says that its weights are noise: its times are good, its answers are none."""

    name: str
    model: Dream
    tokenizer: Tokenizer
    random: bool

    @property
    def work(self) -> Work:
        arrays: Any = tree_flatten(self.model.parameters())
        count = parameters(self.model.config)
        return Work(parameters=count, bits_per_weight=8 * sum(value.nbytes for _, value in arrays) / count)

    def to_dict(self) -> dict[str, Any]:
        """What of it makes two runs comparable."""
        work = self.work
        return {
            "name": self.name,
            "random": self.random,
            "parameters": work.parameters,
            "bytes": int(work.bytes),
            "bits_per_weight": work.bits_per_weight,
            "dtype": str(self.model.model.norm.weight.dtype).removeprefix("mlx.core."),
        }


def check_fits(what: str, size: float, memory: int | None = None) -> None:
    """Raise `BenchError` where weights of `size` bytes leave no room to run them, naming the sizes that would fit."""
    memory = memory or memory_size()
    if memory_to_run(int(size)) <= memory:
        return
    whole = parameters(SHAPES["7b"])
    fitting = [bits for bits in (8, 6, 4, 3, 2) if memory_to_run(int(whole * bits_per_weight(bits) / 8)) <= memory]
    said = f"of the 7B, {', '.join(map(str, fitting))} bits would" if fitting else "no 7B would; use -m pocket"
    raise BenchError(
        f"{what}: does not fit, about {memory_to_run(int(size)) / 1e9:.1f} GB to run of {memory / 1e9:.1f} GB of memory; {said}"
    )


def noise(shape: str, bits: int, dtype: str, layers: int | None = None, seed: int = 0) -> Measured:
    """A network of a shape, its weights drawn and quantized in memory one matrix after the other.

    Its tokenizer is that of `pocket`.

    Raises:
        BenchError: no such shape, or it does not fit.
    """
    if shape not in SHAPES:
        raise BenchError(f"--shape must be one of {', '.join(SHAPES)}, not {shape!r}")
    tokenizer = Tokenizer.load(resolve(POCKET))
    config = replace(SHAPES[shape], mask_token_id=tokenizer.mask_id)
    name = f"{shape}, {bits} bits, random weights" + (f", layers: {layers} of {config.num_hidden_layers}" if layers else "")
    config = replace(config, num_hidden_layers=layers or config.num_hidden_layers)
    stored = bits_per_weight(bits) if bits < 16 else 8 * DTYPES[dtype].size
    check_fits(name, parameters(config) * stored / 8)
    mx.random.seed(seed)
    model = Dream(config)  # nothing is computed yet
    model.set_dtype(DTYPES[dtype])
    if bits < 16:
        nn.quantize(model, group_size=64, bits=bits)
    model.eval()
    leaves: Any = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    for _, module in leaves:
        mx.eval(module.parameters())
        mx.clear_cache()
    return Measured(name, model, tokenizer, random=True)
