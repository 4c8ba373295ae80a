"""Compare coupled-GRPO with more supervised training: same model, same tasks, equal compute.

    python -m bench.studies.grpo half-trained train.jsonl unseen.jsonl --out lift --steps 100 --allow-code-execution

trains the model twice: by coupled-GRPO for `--steps` steps, and by the masked-diffusion objective on the tasks' solutions
for as many steps as the same compute allows. Compute is positions forwarded, where those with a gradient count three
times. Generating answers counts, running them does not (the printed seconds include everything). Prints greedy pass@1 of
the initial model and of both results on the second file: with the preset `balanced`, with the reference's schedule of one
token a step, and with half as many steps. Ends with one line of JSON. Not covered: more than one seed, other learning rates.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import typer

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import ExecutionError, TrainError

from .terminal import one_line

GRADIENT = 3  # cost of a forward and its gradient, in forwards
DECODERS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "one token a step": {"rule": "schedule"},
    "half of the steps": {"rule": "schedule", "steps": 0.5},
}


def main(
    model: Annotated[str, typer.Argument(help="The initial checkpoint, not quantized.")],
    train: Annotated[Path, typer.Argument(help="Tasks with solutions to train on.")],
    judge: Annotated[Path, typer.Argument(help="Tasks to evaluate on.")],
    out: Annotated[Path, typer.Option(help="The folder for both runs; it must not exist.")] = Path("lift"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of coupled-GRPO.")] = 100,
    group: Annotated[int, typer.Option(help="Answers to a prompt.")] = 8,
    prompts: Annotated[int, typer.Option(help="Prompts per round.")] = 8,
    updates: Annotated[int, typer.Option(help="Steps per round.")] = 2,
    temp: Annotated[float, typer.Option(help="The answers' temperature.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 64,
    grpo_rate: Annotated[float, typer.Option(help="Learning rate of coupled-GRPO.")] = 2e-5,
    sft_rate: Annotated[float, typer.Option(help="Learning rate of supervised training.")] = 2e-4,
    batch_size: Annotated[int, typer.Option(help="Canvases per forward, for both.")] = 24,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate on only this many tasks.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="Run what the model writes.")] = False,
) -> None:
    """Measure the gain of coupled-GRPO over supervised training."""
    from mlx_diffucoder.tasks import read_tasks

    with one_line("grpo"):
        if not allow_code_execution:
            raise ExecutionError("this runs code that the model writes; add --allow-code-execution to accept that")
        if out.exists():
            raise TrainError(f"{out}: exists already; choose another folder with --out")
        read_tasks(train)  # checked before minutes are spent on the other file
        decoding = {"max_tokens": max_tokens, "temperature": temp}
        grpo = {"group": group, "prompts_per_step": prompts, "updates": updates}
        common = {"batch_size": batch_size, "save_every": 2**31, "seed": seed}
        rows: dict[str, dict[str, float]] = {
            "as it was": {"compute": 0, "seconds": 0.0, **judged(model, judge, max_tokens, limit)}
        }
        cost = learn_by_reward(
            model, train, out / "coupled-grpo", grpo, decoding, {**common, "steps": steps, "learning_rate": grpo_rate}
        )
        rows["coupled-GRPO"] = {**cost, **judged(str(out / "coupled-grpo"), judge, max_tokens, limit)}
        cost = learn_by_example(
            model, train, out / "sft", int(cost["compute"]), {**common, "learning_rate": sft_rate}, max_tokens
        )
        rows["supervised"] = {**cost, **judged(str(out / "sft"), judge, max_tokens, limit)}
    print(f"{'':14} {'compute':>9} {'seconds':>8} " + " ".join(f"{name:>18}" for name in DECODERS))
    for name, row in rows.items():
        passed = " ".join(f"{100 * row[one]:17.1f}%" for one in DECODERS)
        print(f"{name:14} {row['compute'] / 1e3:8.0f}k {row['seconds']:8.0f} {passed}")
    print(json.dumps({"model": model, "steps": steps, "seed": seed, **grpo, **decoding, "rows": rows}))


def learn_by_reward(
    model: str, data: Path, out: Path, grpo: dict[str, Any], decoding: dict[str, Any], settings: dict[str, Any]
) -> dict[str, float]:
    """Train all weights by coupled-GRPO; returns its compute and seconds."""
    from mlx_diffucoder.evaluation import Limits
    from mlx_diffucoder.training.grpo import Grpo, GrpoPlan
    from mlx_diffucoder.training.grpo_job import grpo_job, read_prompts
    from mlx_diffucoder.training.settings import GrpoSettings, TrainSettings

    learner = _learner(model)
    plan = GrpoPlan(grpo=GrpoSettings(**grpo), decoding=GenerationConfig(**decoding), limits=Limits())
    tasks = read_prompts(data, learner, plan.decoding)
    trainer = grpo_job(learner, TrainSettings(**settings), plan, tasks).trainer(out, _hooks(), resume=False)
    began = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - began
    trainer.folder.publish(trainer.progress)
    if not isinstance(trainer.method, Grpo):
        raise TypeError("the run uses another method")
    return {"compute": trainer.method.forwarded + GRADIENT * trainer.method.learnt, "seconds": seconds}


def learn_by_example(
    model: str, data: Path, out: Path, compute: int, settings: dict[str, Any], max_tokens: int
) -> dict[str, float]:
    """Train all weights on the tasks' solutions, for as many steps as `compute` allows."""
    from mlx_diffucoder.training.batches import Batches
    from mlx_diffucoder.training.job import Data, supervised_job
    from mlx_diffucoder.training.settings import TrainSettings

    learner = _learner(model)
    read = Data.read(data, None, learner.tokenizer, max_length=learner.model.config.max_position_embeddings, skip_long=True)
    # Canvases as long as those of the answers: the longest prompt, and the masks after it.
    longest = max(max(map(len, read.train.kept)), max_tokens + max(len(one.prompt) for one in read.train.kept))
    batches = Batches(read.train.kept, learner.tokenizer, TrainSettings(**settings, steps=1, max_length=longest))
    steps = spent = 0
    while spent < compute:
        spent += GRADIENT * batches.draw(steps)[0].tokens.size
        steps += 1
    chosen = TrainSettings(**settings, steps=steps, max_length=longest)
    trainer = supervised_job(learner, chosen, read).trainer(out, _hooks(), resume=False)
    began = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - began
    trainer.folder.publish(trainer.progress)
    return {"compute": spent, "seconds": seconds, "steps": steps}


def judged(model: str, tasks: Path, max_tokens: int, limit: int | None) -> dict[str, float]:
    """The share of the tasks that a checkpoint solves greedily, by each of `DECODERS`."""
    from mlx_diffucoder import load
    from mlx_diffucoder.evaluation import evaluate
    from mlx_diffucoder.tasks import read_tasks

    network, tokenizer = load(model, dtype="float32")
    chosen = read_tasks(tasks)[:limit]
    shares = {}
    for name, fields in DECODERS.items():
        steps: dict[str, Any] = {"steps": max(1, int(fields["steps"] * max_tokens))} if "steps" in fields else {}
        config = GenerationConfig(**{"max_tokens": max_tokens, "seed": 0, **fields, **steps})
        found = list(evaluate(network, tokenizer, chosen, config))
        shares[name] = sum(result.passed for result in found) / len(found)
    mx.clear_cache()
    return shares


def _learner(model: str) -> Any:
    from mlx_diffucoder.loading import resolve
    from mlx_diffucoder.training.learners import Tuning, from_checkpoint

    return from_checkpoint(resolve(model), model, Tuning(tune="full", dtype="float32"), 0)


def _hooks() -> Any:
    from mlx_diffucoder.training.trainer import Hooks

    return Hooks(lambda report: print(report.to_dict(), file=sys.stderr, flush=True))


if __name__ == "__main__":
    typer.run(main)
