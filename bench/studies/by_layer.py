"""Memory of `diffucode compare`, with models held whole and layer by layer.

    python -m bench.studies.by_layer

writes two checkpoints of random float32 weights (309M parameters, 1.2 GB each) into a temporary folder, runs
`diffucode compare` on them in both ways, each in a separate process, and ends with one line of JSON. Not
covered: memory that a GPU's driver holds outside the process.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.formatting import format_bytes, format_seconds

# The tokenizer is that of `pocket`, so only the first 768 rows of the vocabulary have a token.
SHAPE = {
    "vocab_size": 32768,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def main(
    limit: Annotated[int, typer.Option(min=1, help="Texts to compare on.")] = 4,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the models.")] = SHAPE["num_hidden_layers"],
) -> None:
    """Measure both ways."""
    with tempfile.TemporaryDirectory() as parent:
        folders = [write(Path(parent) / name, seed, {**SHAPE, "num_hidden_layers": layers}) for seed, name in enumerate("ab")]
        size = sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
        report: dict[str, Any] = {"bytes_of_both": size}
        for way in ("--whole", "--by-layer"):
            start = time.perf_counter()
            found = run("compare", *map(str, folders), "--limit", str(limit), "--json", way)
            seconds = time.perf_counter() - start
            kl = found["checkpoints"][0]["kl"]
            report[way] = {"peak_resident_bytes": found["peak_resident_bytes"], "seconds": seconds, "kl": kl}
            resident = format_bytes(found["peak_resident_bytes"])
            print(f"{way:10} {resident} of {format_bytes(size)}, {format_seconds(seconds)}, KL {kl}")
    print(json.dumps(report))


def run(*args: str) -> Any:
    """The output of `diffucode ARGS`."""
    script = "from mlx_diffucoder.cli import main; main()"
    return json.loads(subprocess.run([sys.executable, "-c", script, *args], stdout=subprocess.PIPE, check=True).stdout)


def write(folder: Path, seed: int, shape: dict[str, int]) -> Path:
    """A checkpoint of random weights."""
    import mlx.core as mx

    from mlx_diffucoder.loading import resolve
    from mlx_diffucoder.models.base import ModelConfig
    from mlx_diffucoder.models.transformer import DiffusionModel

    ignored = shutil.ignore_patterns("*.safetensors", "*.index.json", "*.py", "__pycache__")
    shutil.copytree(resolve("pocket"), folder, ignore=ignored)
    config = {**json.loads((folder / "config.json").read_text()), **shape, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(seed)
    DiffusionModel(ModelConfig.from_dict(config)).save_weights(str(folder / "model.safetensors"))
    return folder


if __name__ == "__main__":
    typer.run(main)
