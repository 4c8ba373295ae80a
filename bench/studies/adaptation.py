"""Teach `pocket` functions over records, which it does not know, by LoRA on its quantized weights.

    python -m bench.studies.adaptation

quantizes the checkpoint to 4 bits, trains an adapter on small functions over lists of dicts, and prints pass@1 before and
after on functions that are not in the training data: other triples of a result, a change and a condition. Ends with one line
of JSON. Runs code that the model writes.
"""

import json
import random
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.errors import ExecutionError
from mlx_diffucoder.formatting import format_seconds

from .terminal import one_line

RESULTS = {
    "a list of {what}": "[{each}]",
    "a sorted list of {what}": "sorted({each})",
    "the sum of {what}": "sum({each})",
    "the largest of {what}": "max([{each}], default=None)",
    "the count of {what}": "len([{each}])",
}
CHANGES = {
    "the prices": "r['price']",
    "the squares of the prices": "r['price'] * r['price']",
    "the negations of the prices": "-r['price']",
}
CONDITIONS = {
    "even": "r['stock'] % 2 == 0",
    "odd": "r['stock'] % 2 == 1",
    "positive": "r['stock'] > 0",
    "negative": "r['stock'] < 0",
    "nonzero": "r['stock'] != 0",
}
PHRASES = (
    "Write a function {f}({d}) that returns {what} of the records in {d} with {c} stock.",
    "Implement {f}({d}): return {what} of the records in {d} with {c} stock.",
)
NAMES, ARGUMENTS = ("f", "process", "solve", "compute"), ("rows", "items", "parts", "goods")
MAX_LENGTH = 128


def family(seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows, and tasks made of a held-out fifth of the triples of a result, a change and a condition."""
    rng = random.Random(seed)
    train: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    for (i, result), (j, change), (k, condition) in product(enumerate(RESULTS), enumerate(CHANGES), enumerate(CONDITIONS)):
        for phrase in PHRASES * 2:
            row = _row(f"records/{len(tasks)}", phrase, result, change, condition, rng)
            if (i + j + k) % 5:
                train.append({"prompt": row["prompt"], "completion": row["canonical_solution"]})
            else:
                tasks.append(row)
    return train, tasks


def _row(id: str, phrase: str, result: str, change: str, condition: str, rng: random.Random) -> dict[str, Any]:
    name, argument = rng.choice(NAMES), rng.choice(ARGUMENTS)
    what = result.format(what=change)
    each = f"{CHANGES[change]} for r in {argument} if {CONDITIONS[condition]}"
    solution = f"def {name}({argument}):\n    return {RESULTS[result].format(each=each)}\n"
    scope: dict[str, Any] = {}
    exec(solution, scope)  # our own few lines above
    checks = []
    for _ in range(6):
        given = [{"price": rng.randint(-12, 15), "stock": rng.randint(-3, 3)} for _ in range(rng.randint(0, 6))]
        checks.append(f"    assert candidate({given!r}) == {scope[name](given)!r}\n")
    return {
        "task_id": id,
        "prompt": phrase.format(f=name, d=argument, what=what, c=condition),
        "entry_point": name,
        "canonical_solution": solution,
        "test": "def check(candidate):\n" + "".join(checks),
    }


def main(
    model: Annotated[str, typer.Argument(help="A checkpoint that is not quantized.")] = "pocket",
    bits: Annotated[int, typer.Option(help="Bits to quantize it to.")] = 4,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 600,
    tasks: Annotated[int, typer.Option(min=1, max=60, help="Tasks to evaluate on.")] = 48,
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="Run what the model writes.")] = False,
) -> None:
    """Measure pass@1 before and after an adapter is trained."""
    with one_line("adaptation"):
        if not allow_code_execution:
            raise ExecutionError("this runs code that the model writes; add --allow-code-execution to accept that")
        with tempfile.TemporaryDirectory() as parent:
            report = measure(model, Path(parent), bits=bits, steps=steps, tasks=tasks)
    print(json.dumps(report))


def measure(model: str, folder: Path, *, bits: int = 4, steps: int = 600, tasks: int = 48) -> dict[str, Any]:
    """pass@1 of the quantized checkpoint before and after training, and the seconds of training."""
    from mlx_diffucoder.convert import ConvertConfig, convert

    train, held_out = family()
    _write(folder / "train.jsonl", train)
    _write(folder / "tasks.jsonl", random.Random(0).sample(held_out, tasks))
    quantized = convert(model, folder / "quantized", ConvertConfig(quantize=True, q_bits=bits))
    before = _passed(convert(quantized, folder / "before", ConvertConfig(dequantize=True)), folder / "tasks.jsonl")
    print(f"before: {100 * before:.1f} %", file=sys.stderr, flush=True)
    began = time.perf_counter()
    _train(quantized, folder, steps)
    seconds = time.perf_counter() - began
    convert(quantized, folder / "after", ConvertConfig(adapter=folder / "adapter", dequantize=True))
    after = _passed(folder / "after", folder / "tasks.jsonl")
    print(f"after: {100 * after:.1f} % ({format_seconds(seconds)} of training)", file=sys.stderr, flush=True)
    return {"model": model, "bits": bits, "steps": steps, "tasks": tasks, "before": before, "after": after, "seconds": seconds}


def _train(checkpoint: Path, folder: Path, steps: int) -> None:
    from mlx_diffucoder.training.job import Data, supervised_job
    from mlx_diffucoder.training.learners import Tuning, from_checkpoint
    from mlx_diffucoder.training.settings import TrainSettings
    from mlx_diffucoder.training.trainer import Hooks

    learner = from_checkpoint(checkpoint, checkpoint.name, Tuning(tune="lora", dtype="float32"), 0)
    settings = TrainSettings(
        steps=steps,
        batch_size=4,
        accumulate=2,
        max_length=MAX_LENGTH,
        canvas="longest",
        learning_rate=1e-3,
        warmup=10,
        save_every=steps,
    )
    data = Data.read(folder / "train.jsonl", None, learner.tokenizer, max_length=MAX_LENGTH, skip_long=False)
    hooks = Hooks(lambda report: print(json.dumps(report.to_dict()), file=sys.stderr, flush=True))
    trainer = supervised_job(learner, settings, data).trainer(folder / "adapter", hooks, resume=False)
    trainer.run()
    trainer.folder.publish(trainer.progress)


def _passed(checkpoint: Path, tasks: Path) -> float:
    """pass@1 with the quantized weights turned into floats, because MLX's CPU backend is slow at quantized products."""
    from mlx_diffucoder import GenerationConfig, load
    from mlx_diffucoder.evaluation import evaluate
    from mlx_diffucoder.tasks import read_tasks

    network, tokenizer = load(checkpoint, dtype="float32")
    found = list(evaluate(network, tokenizer, read_tasks(tasks), GenerationConfig(max_tokens=64, seed=0)))
    return sum(result.passed for result in found) / len(found)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
