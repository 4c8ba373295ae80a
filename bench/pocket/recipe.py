"""The recipe of the bundled model: tasks, its vocabulary, training from scratch, float16.

    python -m bench.pocket.recipe FOLDER

writes `FOLDER/start` (configuration and tokenizer), a checkpoint with its log for each of `STAGES` (the first is
`FOLDER/causal` with `FOLDER/causal/log.jsonl`), a checkpoint for each mean of several, the training tasks
(`FOLDER/tasks/plain`), and `FOLDER/pocket`.

The model starts left to right, as Dream and DiffuCoder did (arXiv 2508.15487, section 3): then every token of an answer is
a target, without the noise of masks. It continues with masked diffusion. There every second batch stays left to right, and
half of the answers in the others are masked from some position to the end; otherwise the model forgets the tasks. From
`padded` on, the padding after half of the answers is masked with its own probability, because the reference decoder commits
most of it before the answer.

Within a stage the learning rate falls, and the next stage starts high again, because the loss was still falling at each end.
The tasks become harder: first mostly single operations, then nested ones (`nested`), then nested ones with arbitrary
numbers, letters and names (`wide`), which must be copied and cannot be memorized. Easier tasks at a lower rate (`calm`) end
these. There the targets far from visible text are smoothed, because the reference decoder starts where the model is most
confident.

The final learning rate of a stage leaves noise in the weights. The mean of the weights of several stages has less of it at
no cost (Wortsman et al. 2022, arXiv 2203.05482), if they continue one another or share an ancestor.

Finished parts are kept and a stopped training is resumed, so the same command continues an interrupted recipe (means are
computed anew; they take a moment). `diffucode train` and `diffucode convert` do the work; their command lines are printed.
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
# As the first pocket model, with a larger vocabulary and the changes noted: 5.0M parameters, 10 MB in float16.
SHAPE: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "model_type": "Dream",
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.06,  # 1 / sqrt(hidden_size), so that queries can tell keys apart from the start
    "intermediate_size": 768,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,  # for canvases of a few hundred tokens; Qwen2's 1e6 hardly separates positions there
    "tie_word_embeddings": True,  # so that learning to copy one name helps with all of them
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
LEARNT_FROM = 20_000  # tasks in the corpus of the vocabulary

# Options of the task maker for each set of tasks: size, seed and shares.
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
    """A run of `diffucode train`: its name, its start, its tasks, and the options for `train`."""

    name: str
    begun: str
    tasks: str
    steps: int
    flags: dict[str, Any]


class Mean(NamedTuple):
    """A checkpoint whose weights are a weighted mean of others."""

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
    folder: Annotated[Path, typer.Argument(help="The folder for everything.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of every stage instead of its own.")] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tasks of every set instead of its own.")] = None,
    seed: Annotated[int, typer.Option(help="Added to the seeds of tasks, weights and masks.")] = 0,
) -> None:
    """Train a pocket model from scratch."""
    if (folder / "pocket").exists():  # convert leaves it complete or not there
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
            # Each stage has its own seed, so that it sees the texts in another order.
            flags = stage.flags | {"steps": steps or stage.steps, "seed": seed + number}
            train(folder / "tasks" / stage.tasks, folder / stage.name, folder / stage.begun, flags)
    run(["convert", folder / STAGES[-1].name, folder / "pocket", "--dtype", "float16"])


def make(folder: Path, *, size: int, seed: int, **shares: float) -> None:
    """Write training and validation tasks, unless they exist; `shares` as for the task maker."""
    if not (folder / "train.jsonl").exists():
        write(folder, {"train": size, "valid": min(1000, size // 50)}, seed, **shares, force=True)


def train(tasks: Path, out: Path, begun: Path, flags: dict[str, Any]) -> None:
    """Train on a folder's tasks into `out`, or resume there; `begun` is a checkpoint, or a start without weights."""
    model: list[Any] = ["--model", begun, "--tune", "full"]
    if not (begun / WEIGHTS).exists():
        model = ["--from-scratch", begun / "config.json", "--tokenizer", begun]
    data = ["--data", tasks / "train.jsonl", "--valid", tasks / "valid.jsonl", "--out", out]
    said = [part for name, value in flags.items() for part in ([f"--{name}"] if value is True else [f"--{name}", value])]
    run(["train", *model, *data, *said, *(["--resume"] if out.exists() else [])])


def average(shares: dict[Path, float], out: Path) -> None:
    """Write a checkpoint whose weights are the weighted sum of others', in float32. They share one tokenizer."""
    first, *_ = shares
    shutil.copytree(first, out, ignore=shutil.ignore_patterns("step-*", "log.jsonl", "*.safetensors"), dirs_exist_ok=True)
    total: dict[str, Any] = {}
    for folder, share in shares.items():
        weights: Any = mx.load(str(folder / WEIGHTS))
        total = {name: share * value + total.get(name, 0) for name, value in weights.items()}
    mx.save_safetensors(str(out / WEIGHTS), total, {"format": "pt"})


def start(tasks: Path, folder: Path) -> None:
    """Write the configuration and the tokenizer of an untrained model."""
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
    """Print and run a `diffucode` command. Its output is shown, and its failure ends the recipe."""
    words = [str(word) for word in arguments]
    print(f"diffucode {shlex.join(words)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-c", "from mlx_diffucoder.cli import main; main()", *words]
    # On a CPU the parts of a step run in parallel if MLX walks their graphs breadth-first; its default limit is 20.
    environment = {"MLX_BFS_MAX_WIDTH": "200", **os.environ}
    if code := subprocess.run(command, check=False, env=environment).returncode:
        raise SystemExit(code)


if __name__ == "__main__":
    typer.run(main)
