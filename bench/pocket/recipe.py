"""The recipe of the bundled model: tasks, a vocabulary of its own, training from scratch, float16.

    python -m bench.pocket.recipe FOLDER

writes `FOLDER/start` (configuration and tokenizer), for each of `STAGES` a checkpoint with its curve (`FOLDER/causal` and
`FOLDER/causal/log.jsonl` are the first's), for each mean of several a checkpoint, the tasks that they learn from
(`FOLDER/tasks/plain`), and `FOLDER/pocket`.

The model begins from left to right, as Dream and DiffuCoder did (arXiv 2508.15487, section 3): every token of an answer
teaches then, with no noise of masks. It goes on by masked diffusion, of which every second batch stays from left to right,
and half of the answers in the others are masked from a place on: for otherwise what it knows of the tasks is lost on the way.
From `padded` on the padding behind half of the answers is masked with a probability of its own, for the reference decoder
commits most of it before anything of the answer.

A stage's rate falls to its end and the next one's begins high again: at the end of each the loss was still falling. The tasks
become harder: first mostly single operations, then operations around operations (`nested`), then such with any numbers, letters
and names (`wide`), which must be copied and cannot be learnt by heart. Tamer tasks at a lower rate (`calm`) end those; there
the targets far behind what is shown are smoothed, for the reference decoder begins where the model is surest.

The rate that a stage ends with leaves noise in the weights. In the mean of several stages' weights there is less of it, and it
costs nothing (Wortsman et al. 2022, arXiv 2203.05482), where they go on from one another or from the same.

Each part but a mean, made in a moment, is left alone where it is there already, and a training that was stopped goes on, so the
same command continues a recipe that was broken off. It is `diffucode train` and `diffucode convert` that do the work; their
command lines are printed.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import mlx.core as mx
import typer

from mlx_diffucoder.errors import DiffucoderError

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
PADDED = MIXED | {"learning-rate": 5e-4, "warmup": 50, "eval-every": 400, "padding": 0.5}
NESTED = MIXED | {"padding": 0.5}
WIDE = NESTED | {"learning-rate": 1.2e-3, "warmup": 60, "max-length": 160, "skip-long": True}
SMOOTHED = WIDE | {"learning-rate": 9e-4, "smoothing": 0.12}
CALM = NESTED | {"learning-rate": 6e-4, "warmup": 60, "eval-every": 600, "smoothing": 0.1}
LEARNT_FROM = 20_000  # tasks that the vocabulary is learnt from

# What the task maker is told of each set of tasks: its size and seed, and the shares of what it draws.
TASKS: dict[str, dict[str, Any]] = {
    "plain": {"size": 200_000, "seed": 0, "nested": 0, "wide": 0, "classic": 0.34, "copied": 0},
    "nested": {"size": 200_000, "seed": 0, "nested": 0.75, "wide": 0, "classic": 0.12, "copied": 0},
    "wide": {"size": 200_000, "seed": 7, "nested": 0.5, "wide": 0.5, "classic": 0.15, "copied": 0},
    "calm": {"size": 64_000, "seed": 8, "nested": 0.25, "wide": 0.25, "classic": 0.25, "copied": 0},
    "wide-2": {"size": 220_000, "seed": 11, "nested": 0.5, "wide": 0.5, "classic": 0.15, "copied": 0},
    "calm-2": {"size": 64_000, "seed": 12, "nested": 0.25, "wide": 0.25, "classic": 0.25, "copied": 0},
    "copied": {"size": 160_000, "seed": 13, "nested": 0.35, "wide": 0.4, "classic": 0.18, "copied": 0.25},
    "calm-3": {"size": 64_000, "seed": 14, "nested": 0.25, "wide": 0.25, "classic": 0.25, "copied": 0.12},
    "wide-3": {"size": 160_000, "seed": 15, "nested": 0.45, "wide": 0.35, "classic": 0.12, "copied": 0.12},
    "wide-4": {"size": 160_000, "seed": 16, "nested": 0.45, "wide": 0.35, "classic": 0.12, "copied": 0.12},
    "calm-4": {"size": 64_000, "seed": 17, "nested": 0.25, "wide": 0.25, "classic": 0.18, "copied": 0.08},
    "calm-5": {"size": 64_000, "seed": 18, "nested": 0.25, "wide": 0.25, "classic": 0.18, "copied": 0.08},
}


class Stage(NamedTuple):
    """A run of `diffucode train`: its name, what it goes on from, its tasks, and what `train` is told."""

    name: str
    begun: str
    tasks: str
    steps: int
    flags: dict[str, Any]


class Mean(NamedTuple):
    """A checkpoint whose weights are so much of some and so much of others."""

    name: str
    shares: dict[str, float]


STAGES: tuple[Stage | Mean, ...] = (
    Stage("causal", "start", "plain", 3000, CAUSAL),
    Stage("mixed", "causal", "plain", 3500, MIXED),
    Stage("again", "mixed", "plain", 5000, MIXED),
    Stage("padded", "again", "plain", 800, PADDED),
    Stage("nested", "padded", "nested", 4500, NESTED),
    Stage("wide", "nested", "wide", 4700, WIDE),
    Stage("calm", "wide", "calm", 1800, CALM),
    Stage("wide-2", "calm", "wide-2", 4500, WIDE | {"learning-rate": 1e-3}),
    Stage("calm-2", "wide-2", "calm-2", 1600, CALM),
    Stage("copied", "calm-2", "copied", 3900, SMOOTHED),
    Stage("calm-3", "copied", "calm-3", 1900, CALM),
    Mean("mean-1", {"calm-3": 0.6, "calm-2": 0.4}),
    Stage("wide-3", "mean-1", "wide-3", 1750, SMOOTHED),
    Stage("wide-4", "mean-1", "wide-4", 1750, SMOOTHED),
    Mean("mean-2", {"wide-3": 0.5, "wide-4": 0.5}),
    Stage("calm-4", "mean-2", "calm-4", 900, CALM),
    Stage("calm-5", "mean-2", "calm-5", 900, CALM),
    Mean("mean-3", {"calm-4": 0.5, "calm-5": 0.5}),
)


def main(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of every stage, in place of its own.")] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tasks of every set, in place of its own.")] = None,
    seed: Annotated[int, typer.Option(help="Added to those of the tasks, the weights and the masks.")] = 0,
) -> None:
    """Make a pocket model from nothing."""
    if (folder / "pocket").exists():  # convert leaves it whole or not there
        return
    try:
        for name, told in TASKS.items():
            make(folder / "tasks" / name, **told | {"size": tasks or told["size"], "seed": seed + told["seed"]})
        if not (folder / "start" / "config.json").exists():
            start(folder / "tasks" / "plain" / "train.jsonl", folder / "start")
    except DiffucoderError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    for number, stage in enumerate(STAGES):
        if isinstance(stage, Mean):
            average({folder / name: share for name, share in stage.shares.items()}, folder / stage.name)
        else:
            # Each stage has another seed, so that other texts are met first.
            flags = stage.flags | {"steps": steps or stage.steps, "seed": seed + number}
            train(folder / "tasks" / stage.tasks, folder / stage.name, folder / stage.begun, flags)
    run(["convert", folder / STAGES[-1].name, folder / "pocket", "--dtype", "float16"])


def make(folder: Path, *, size: int, seed: int, **shares: float) -> None:
    """Write tasks to train and to validate on, where there are none yet; `shares` as the maker has them."""
    if not (folder / "train.jsonl").exists():
        write(folder, {"train": size, "valid": min(1000, size // 50)}, seed, **shares, force=True)


def train(tasks: Path, out: Path, begun: Path, flags: dict[str, Any]) -> None:
    """Train on a folder's tasks into `out`, or go on where that was broken off; `begun` has weights, or none yet."""
    model: list[Any] = ["--model", begun, "--tune", "full"]
    if not (begun / WEIGHTS).exists():
        model = ["--from-scratch", begun / "config.json", "--tokenizer", begun]
    data = ["--data", tasks / "train.jsonl", "--valid", tasks / "valid.jsonl", "--out", out]
    said = [part for name, value in flags.items() for part in ([f"--{name}"] if value is True else [f"--{name}", value])]
    run(["train", *model, *data, *said, *(["--resume"] if out.exists() else [])])


def average(shares: dict[Path, float], out: Path) -> None:
    """Write a checkpoint whose weights are the sum of others', each times its share, in float32; one tokenizer is theirs."""
    first, *_ = shares
    shutil.copytree(first, out, ignore=shutil.ignore_patterns("step-*", "log.jsonl", "*.safetensors"), dirs_exist_ok=True)
    total: dict[str, Any] = {}
    for folder, share in shares.items():
        weights: Any = mx.load(str(folder / WEIGHTS))
        total = {name: share * value + total.get(name, 0) for name, value in weights.items()}
    mx.save_safetensors(str(out / WEIGHTS), total, {"format": "pt"})


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
