"""The recipe of the bundled model: tasks, a vocabulary of its own, training from scratch, float16.

    python -m mlx_diffucoder.training.pocket FOLDER

writes `FOLDER/tasks`, `FOLDER/start` (configuration and tokenizer), `FOLDER/causal`, `FOLDER/mixed`, `FOLDER/again` and
`FOLDER/last` (checkpoints and the curves, `log.jsonl`), `FOLDER/run` and `FOLDER/pocket`.

The model begins from left to right, as Dream and DiffuCoder did (arXiv 2508.15487, section 3): every token of an answer
teaches then, with no noise of masks. It goes on by masked diffusion, of which every second batch stays from left to right,
and half of the answers in the others are masked from a place on: for otherwise what it knows of the tasks is lost on the way.
The third stage is the second once more, its rate raised again: the loss was still falling at the second's end. In the last
one the padding behind half of the answers is masked with a probability of its own, for the reference decoder commits most of
it before anything of the answer.

The model that this leaves is surer than it is right, and commits tokens together that do not go together; so its logits are
scaled (temperature scaling: Guo et al. 2017, arXiv 1706.04599), by what served tasks like those it was trained on best.

Each part is left alone where it is there already, and a training that was stopped goes on, so the same command continues
a recipe that was broken off. It is `diffucode train` and `diffucode convert` that do the work; their command lines are printed.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import typer

from ..errors import DiffucoderError
from .maker.__main__ import write
from .vocabulary import write_vocabulary

VOCABULARY = 1024
WEIGHTS = "model.safetensors"
# The first pocket model's, but for a wider vocabulary and what is said beside: 5.0M parameters, 10 MB in float16.
SHAPE: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "model_type": "Dream",
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.06,  # 1 / sqrt(hidden_size), so that queries tell keys apart from the beginning
    "intermediate_size": 768,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,  # for canvases of a few hundred; 1e6, as Qwen2 has it, tells few places apart there
    "tie_word_embeddings": True,  # so that what is learnt of copying one name holds for all of them
    "torch_dtype": "float32",
    "vocab_size": VOCABULARY,
}
TRAINING: dict[str, Any] = {
    "batch-size": 16,
    "accumulate": 2,
    "max-length": 256,
    "optimizer": "muon",
    "learning-rate": 2e-3,
    "warmup": 100,
    "eval-every": 500,
    "save-every": 250,
    "report-every": 25,
}
CAUSAL = TRAINING | {"objective": "causal"}
MIXED = TRAINING | {
    "objective": "mixed",
    "learning-rate": 1.5e-3,
    "infill": 0.2,
    "prefixes": 0.5,
    "least-t": 0.2,  # few masks are mostly noise
}
LAST = MIXED | {"learning-rate": 5e-4, "warmup": 50, "eval-every": 400, "padding": 0.5}
SURENESS = 0.65  # what the logits are scaled by; beside 0.8 and 1 it solved most seen tasks by `balanced`
LEARNT_FROM = 20_000  # tasks that the vocabulary is learnt from


def main(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")],
    causal: Annotated[int, typer.Option(min=1, help="Optimizer steps from left to right.")] = 3000,
    mixed: Annotated[int, typer.Option(min=1, help="Optimizer steps behind them, by masked diffusion too.")] = 3500,
    again: Annotated[int, typer.Option(min=1, help="Optimizer steps of the same, from its full rate once more.")] = 5000,
    last: Annotated[int, typer.Option(min=1, help="Optimizer steps with the padding masked by itself.")] = 800,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks to train on.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Of the tasks, the weights and the masks.")] = 0,
) -> None:
    """Make a pocket model from nothing."""
    try:
        if not (folder / "tasks" / "train.jsonl").exists():
            sizes = {"train": tasks, "valid": 1000, "seen": 200, "unseen": 200}
            write(folder / "tasks", sizes, seed, nested=0, wide=0, copied=0, force=True)
        if not (folder / "start" / "config.json").exists():
            start(folder / "tasks" / "train.jsonl", folder / "start")
    except DiffucoderError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    begun = ["--from-scratch", folder / "start" / "config.json", "--tokenizer", folder / "start"]
    train(folder, "causal", begun, CAUSAL | {"steps": causal, "seed": seed})
    # Each stage has another seed, so that other texts are met first.
    train(folder, "mixed", going_on(folder / "causal"), MIXED | {"steps": mixed, "seed": seed + 1})
    train(folder, "again", going_on(folder / "mixed"), MIXED | {"steps": again, "seed": seed + 2})
    train(folder, "last", going_on(folder / "again"), LAST | {"steps": last, "seed": seed + 3})
    if not (folder / "pocket").exists():  # convert leaves it whole or not there
        temper(folder / "last", folder / "run", SURENESS)
        run(["convert", folder / "run", folder / "pocket", "--dtype", "float16"])


def going_on(checkpoint: Path) -> list[Any]:
    """The flags that train all weights of a checkpoint."""
    return ["--model", checkpoint, "--tune", "full"]


def train(folder: Path, out: str, begun: list[Any], flags: dict[str, Any]) -> None:
    """Train on the folder's tasks into `out`, or go on where that was broken off."""
    data = ["--data", folder / "tasks" / "train.jsonl", "--valid", folder / "tasks" / "valid.jsonl", "--out", folder / out]
    said = [part for name, value in flags.items() for part in (f"--{name}", value)]
    run(["train", *begun, *data, *said, *(["--resume"] if (folder / out).exists() else [])])


def start(tasks: Path, folder: Path) -> None:
    """Write the configuration and the tokenizer of a model that has learnt nothing yet."""
    rows = [json.loads(line) for _, line in zip(range(LEARNT_FROM), tasks.open(encoding="utf-8"), strict=False)]
    texts = [f"user\n{row['prompt']}\nassistant\n{row['completion']}" for row in rows]
    ids = write_vocabulary(texts, VOCABULARY, folder)
    special = {
        "bos_token_id": ids["<|beginoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|dlm_pad|>"],
        "mask_token_id": ids["<|mask|>"],
    }
    (folder / "generation_config.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(SHAPE | special, indent=2) + "\n", encoding="utf-8")


def temper(trained: Path, out: Path, sureness: float) -> None:
    """Write a model whose logits are `sureness` times those of another: the last norm's weight is, so that it costs nothing."""
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("step-*", "log.jsonl"), dirs_exist_ok=True)
    weights: Any = mx.load(str(trained / WEIGHTS))
    weights["model.norm.weight"] *= sureness
    mx.save_safetensors(str(out / WEIGHTS), weights, {"format": "pt"})


def run(arguments: list[Any]) -> None:
    """Run a verb of `diffucode`, saying which; what it prints is shown, and its failure is ours."""
    words = [str(word) for word in arguments]
    print(f"diffucode {shlex.join(words)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-c", "from mlx_diffucoder.cli import main; main()", *words]
    # On a CPU a step's parts are computed side by side where their graphs are walked in breadth; MLX's own limit is 20.
    environment = {"MLX_BFS_MAX_WIDTH": "200", **os.environ}
    if code := subprocess.run(command, check=False, env=environment).returncode:
        raise SystemExit(code)


if __name__ == "__main__":
    typer.run(main)
