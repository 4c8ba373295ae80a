"""What GRPO in the order of decoding gains on tasks whose compositions were never trained on.

    python -m bench.pocket.maker tasks --train 4000 --evaluate 400 --seed 31 --classic 0 --nested 0.7
    mlx.launch -n 5 -- python -m bench.studies.left_to_right choose tasks/train.jsonl chosen.jsonl --allow-code-execution
    mlx.launch -n 5 -- python -m bench.studies.left_to_right run chosen.jsonl bench/tasks/wide.jsonl tasks/unseen.jsonl \\
      --seed 1 --minutes 5 --out run-1 --allow-code-execution

    python -m bench.studies.left_to_right agree bench/tasks/wide.jsonl --limit 6

`choose` keeps the tasks that the model does not always solve. `run` runs one seed: pass@1 before, training, pass@1 after, by
each of `DECODERS`. The processes of `mlx.launch` share the answers; without it there is one. Training ends after `--minutes`,
at a constant learning rate. The last line of stdout is JSON, with the ids of the tasks that each decoder solves. `agree`
measures what it changes that a step of the likelihood has several tokens.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import ExecutionError

from .terminal import one_line

DECODERS: dict[str, dict[str, Any]] = {
    "tree": {"rule": "leftmost"},
    "one token a step": {"rule": "leftmost", "window": "sliding:width=28,suffix=0"},
    "sampled": {"rule": "leftmost", "temperature": 1.0},
}
app = typer.Typer(help="Measure what GRPO in the order of decoding gains.", pretty_exceptions_enable=False)
Model = Annotated[str, typer.Option("--model", "-m", help="The initial checkpoint, not quantized.")]
Allow = Annotated[bool, typer.Option("--allow-code-execution", help="Run what the model writes.")]


@app.command()
def choose(
    tasks: Annotated[Path, typer.Argument(help="Tasks to choose from.")],
    out: Annotated[Path, typer.Argument(help="The file with those chosen.")],
    model: Model = "pocket",
    answers: Annotated[int, typer.Option(help="Answers to each, at temperature 1.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Choose from only the first of the file.")] = None,
    minutes: Annotated[float, typer.Option(help="Ask no more after so long.")] = 60.0,
    allow_code_execution: Allow = False,
) -> None:
    """Keep the tasks that not all answers solve."""
    from mlx_diffucoder.evaluation import Limits
    from mlx_diffucoder.training.grpo_job import read_prompts
    from mlx_diffucoder.training.parallel import launched
    from mlx_diffucoder.training.rollouts import rewards_of, write

    with one_line("left_to_right"):
        _check(allow_code_execution)
        learner, config = _learner(model), GenerationConfig(max_tokens=64, temperature=1.0, rule="leftmost", seed=0)
        prompts, passed = launched().own(read_prompts(tasks, learner, config)[:limit]), []
        ends = time.perf_counter() + 60 * minutes
        for start in range(0, len(prompts), 32):
            if time.perf_counter() > ends:
                break
            some = prompts[start : start + 32]
            texts = [write(learner.model, learner.tokenizer, one.ids, answers, config).texts for one in some]
            earned = rewards_of([(one.task, text) for one, own in zip(some, texts, strict=True) for text in own], Limits())
            passed += [sum(reward.passed for reward in earned[at : at + answers]) for at in range(0, len(earned), answers)]
            if launched().rank == 0:
                print(f"{start + len(some)} of {len(prompts)}", file=sys.stderr, flush=True)
        every = launched().gathered([[one.task.id, count] for one, count in zip(prompts, passed, strict=False)])
    if launched().rank == 0:
        counts = {name: count for part in every for name, count in part}
        lines = [line for line in tasks.read_text().splitlines() if counts.get(json.loads(line)["task_id"], answers) < answers]
        out.write_text("".join(line + "\n" for line in lines))
        shares = {count: sum(one == count for one in counts.values()) for count in range(answers + 1)}
        print(json.dumps({"tasks": len(counts), "chosen": len(lines), "passed": shares}))


@app.command()
def agree(
    tasks: Annotated[Path, typer.Argument(help="Tasks to answer.")],
    model: Model = "pocket",
    answers: Annotated[int, typer.Option(help="Answers to each, at temperature 1.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Answer only the first of the file.")] = None,
) -> None:
    """Compare log π with several tokens in a step with that of one token a step."""
    import numpy as np

    from mlx_diffucoder.training.grpo_job import read_prompts
    from mlx_diffucoder.training.left_to_right import LeftToRight
    from mlx_diffucoder.training.rollouts import write

    with one_line("left_to_right"):
        learner, config = _learner(model), GenerationConfig(max_tokens=64, temperature=1.0, rule="leftmost", seed=0)
        found: dict[int, list[Any]] = {1: [], 4: [], 8: [], 64: []}
        rows = dict.fromkeys(found, 0)
        for prompt in read_prompts(tasks, learner, config)[:limit]:
            own = write(learner.model, learner.tokenizer, prompt.ids, answers, config).answers
            for every, values in found.items():
                likelihood = LeftToRight(learner.tokenizer.mask_id, learner.model.shift, every)
                asked = likelihood.ask(own, np.random.default_rng(0))
                values.append(np.array(likelihood.log_pi(learner.model, *asked.arrays())))
                rows[every] += asked.tokens.size
        log_pi = {every: np.concatenate(values) for every, values in found.items()}
    for every, each in log_pi.items():
        gap = float(np.abs(each - log_pi[1]).mean())
        print(f"{every:2} tokens a step: {rows[every]} rows, mean difference {gap:.4f} nats of {len(each)} tokens")


@app.command()
def run(
    train: Annotated[Path, typer.Argument(help="Tasks to train on.")],
    judges: Annotated[list[Path], typer.Argument(help="Tasks to evaluate on.")],
    model: Model = "pocket",
    out: Annotated[Path, typer.Option(help="The folder of the run.")] = Path("left-to-right"),
    order: Annotated[str, typer.Option(help="As of diffucode train grpo.")] = "left-to-right",
    before: Annotated[bool, typer.Option(help="Evaluate the initial checkpoint.")] = True,
    minutes: Annotated[float, typer.Option(help="How long to train; 0 only evaluates.")] = 5.0,
    group: Annotated[int, typer.Option(help="Answers to a prompt.")] = 16,
    prompts: Annotated[int, typer.Option(help="Prompts per round.")] = 15,
    updates: Annotated[int, typer.Option(help="Steps per round.")] = 1,
    temp: Annotated[float, typer.Option(help="The answers' temperature.")] = 1.0,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 3e-5,
    kl: Annotated[float, typer.Option(help="Weight of the KL to the first model.")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate on only this many tasks of each file.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    allow_code_execution: Allow = False,
) -> None:
    """Measure the gain of GRPO in the order of decoding."""
    from mlx_diffucoder.evaluation import Limits
    from mlx_diffucoder.training.grpo import GrpoPlan
    from mlx_diffucoder.training.grpo_job import grpo_job, read_prompts
    from mlx_diffucoder.training.parallel import launched
    from mlx_diffucoder.training.settings import GrpoSettings, TrainSettings
    from mlx_diffucoder.training.trainer import Hooks

    with one_line("left_to_right"):
        _check(allow_code_execution)
        learner = _learner(model)
        grpo = GrpoSettings(order=order, group=group, prompts_per_step=prompts, updates=updates, kl=kl)
        decoding = GenerationConfig(max_tokens=64, temperature=temp, **grpo.decoding)
        settings = TrainSettings(steps=2**20, batch_size=16, learning_rate=rate, final=1.0, warmup=5, save_every=2**31, seed=seed)
        plan = GrpoPlan(grpo=grpo, decoding=decoding, limits=Limits())
        tasks = read_prompts(train, learner, decoding)
        found = {"before": judged(learner, judges, limit)} if before or not minutes else {}
        chosen = {"order": order, "minutes": minutes, "group": group, "prompts": prompts, "updates": updates, "temp": temp}
        chosen |= {"rate": rate, "kl": kl, "seed": seed, "processes": launched().size}
        if minutes:
            ends = time.perf_counter() + 60 * minutes
            hooks = Hooks(told, lambda: time.perf_counter() > ends, 5)
            trainer = grpo_job(learner, settings, plan, tasks).trainer(out, hooks, resume=False)
            trainer.run()
            trainer.folder.publish(trainer.progress)
            learner.model.eval()
            found["after"] = judged(learner, judges, limit)
            chosen |= {"steps": trainer.progress.step, "last": trainer.last}
    if launched().rank == 0:
        print(json.dumps({**chosen, **found}))


def _check(allowed: bool) -> None:
    if not allowed:
        raise ExecutionError("this runs code that the model writes; add --allow-code-execution to accept that")


def _learner(model: str) -> Any:
    from mlx_diffucoder.loading import resolve
    from mlx_diffucoder.training.learners import Tuning, from_checkpoint

    return from_checkpoint(resolve(model), model, Tuning(tune="full", dtype="float32"), 0)


def told(report: Any) -> None:
    """Print a report of the training in the first process."""
    from mlx_diffucoder.training.parallel import launched

    if launched().rank == 0:
        print(report.to_dict(), file=sys.stderr, flush=True)


def judged(learner: Any, files: list[Path], limit: int | None) -> dict[str, dict[str, Any]]:
    """The tasks of each file that the model solves; unseen compositions apart from seen ones.

    By each of `DECODERS` for the first file, and by the first of them for others.
    """
    from mlx_diffucoder.evaluation import evaluate
    from mlx_diffucoder.tasks import read_tasks
    from mlx_diffucoder.training.parallel import launched

    found: dict[str, dict[str, Any]] = {}
    for number, file in enumerate(files):
        tasks = read_tasks(file)[:limit]
        unseen = {json.loads(line).get("task_id") for line in file.read_text().splitlines() if '"unseen"' in line}
        for name, fields in list(DECODERS.items())[: 1 if number else None]:
            began = time.perf_counter()
            config = GenerationConfig(**{"max_tokens": 64, "seed": 0, **fields})
            own = [one.task_id for one in evaluate(learner.model, learner.tokenizer, launched().own(tasks), config) if one.passed]
            solved = sorted(one for part in launched().gathered(own) for one in part)
            for kind, ids in (("unseen", unseen), ("seen", {task.id for task in tasks} - unseen)):
                if asked := sum(task.id in ids for task in tasks):
                    passed = [one for one in solved if one in ids]
                    found[f"{file.name} {kind}, {name}"] = {"tasks": asked, "solved": passed}
                    if launched().rank == 0:
                        seconds = time.perf_counter() - began
                        line = f"{file.name} {kind} {name}: {len(passed)} of {asked}, {seconds:.1f} s"
                        print(line, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    app()
