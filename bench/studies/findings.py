"""Look for DiffuCoder's findings (arXiv 2506.20639, section 4) in any checkpoint.

    python -m bench.studies.findings bench/tasks/functions.jsonl --out findings --allow-code-execution

writes `findings/findings.json` and `findings/findings.svg` and prints tables. For each temperature: pass@1, pass@n, and local
and global autoregressiveness@k (see `trace/autoregressiveness.py`) of answers denoised one token a step. Then the cost of
half the steps, greedily, and the entropy sink: the confidence of the first forward by distance from the prompt. Ends with
one line of JSON. Autoregressiveness counts only the text before an answer's end; the rest is padding.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import numpy as np
import typer
from numpy.typing import NDArray

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import BenchError, ExecutionError
from mlx_diffucoder.evaluation import Limits, pass_at_k
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.plotting import plotter
from mlx_diffucoder.tasks import Task
from mlx_diffucoder.tokenizer import Tokenizer
from mlx_diffucoder.trace.autoregressiveness import global_autoregressiveness, local_autoregressiveness, within

from .terminal import one_line

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
KS = (1, 2, 4, 8)


@dataclass
class Run:
    """Answers at one temperature: how many of each task passed, and the order of their commits."""

    passed: list[int] = field(default_factory=list)
    local: dict[int, list[float]] = field(default_factory=lambda: {k: [] for k in KS})
    overall: dict[int, list[float]] = field(default_factory=lambda: {k: [] for k in KS})

    def to_dict(self, samples: int) -> dict[str, Any]:
        means = {"local": self.local, "global": self.overall}
        return {
            **{f"pass@{k}": float(np.mean([pass_at_k(samples, one, k) for one in self.passed])) for k in sorted({1, samples})},
            **{name: {str(k): float(np.mean(found)) for k, found in of.items() if found} for name, of in means.items()},
        }


def main(
    tasks: Annotated[Path, typer.Argument(help="Tasks, as diffucode eval reads them.")],
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option(help="The dtype to compute in.")] = "float32",
    max_tokens: Annotated[int, typer.Option(min=2)] = 64,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Answers to each task at a temperature.")] = 10,
    temp: Annotated[list[float] | None, typer.Option(help="A temperature; repeatable.", show_default="0.2 to 1.2")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many tasks.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("findings"),
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution", help="Run what the model writes.")] = False,
) -> None:
    """Look for the paper's findings in a checkpoint."""
    from mlx_diffucoder.loading import load
    from mlx_diffucoder.tasks import read_tasks

    with one_line("findings"):
        if not allow_code_execution:
            raise ExecutionError("this runs code that the model writes; add --allow-code-execution to accept that")
        temperatures = tuple(temp or TEMPERATURES)
        if not all(one > 0 for one in temperatures):
            raise BenchError(f"--temp must be above 0, not {min(temperatures):g}: the greedy answer is always measured")
        pyplot = plotter()  # checked before minutes are spent
        network, tokenizer = load(model, dtype=dtype)
        chosen = read_tasks(tasks)[:limit]
        whole = GenerationConfig(max_tokens=max_tokens, rule="schedule", seed=0)
        report: dict[str, Any] = {"model": model, "dtype": dtype, "tasks": str(tasks), "count": len(chosen), "samples": samples}
        report["sink"] = sink(network, tokenizer, chosen, max_tokens)
        report["steps"] = halved(network, tokenizer, chosen, whole)
        report["temperatures"] = dict(_over(network, tokenizer, chosen, whole, temperatures, samples))
        out.mkdir(parents=True, exist_ok=True)
        (out / "findings.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw(pyplot, report, out / "findings.svg")
    print(f"greedy pass@1: {_percent(report['steps'])}")
    print(f"first forward's confidence at 1, 2, 4, ... tokens from the prompt: {_powers(report['sink'])}")
    print(json.dumps(report))


def _percent(steps: dict[str, float]) -> str:
    return ", ".join(f"{100 * share:.1f} % with {name}" for name, share in steps.items() if name != "loss")


def _powers(confidences: Sequence[float]) -> str:
    places = [2**power for power in range(len(confidences).bit_length()) if 2**power <= len(confidences)]
    return " ".join(f"{confidences[place - 1]:.2f}" for place in places)


def _over(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    config: GenerationConfig,
    temperatures: Sequence[float],
    samples: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The row of each temperature, starting with 0 and one answer a task. Rows are printed as they are measured."""
    heads = [f"{name}@{k}" for name in ("local", "global") for k in KS]
    print(f"{'temp':>5} {'pass@1':>7} {'pass@' + str(samples):>7} " + " ".join(f"{head:>8}" for head in heads))
    for temperature in (0.0, *temperatures):
        count = samples if temperature else 1
        row = answers_at(model, tokenizer, tasks, replace(config, temperature=temperature), count).to_dict(count)
        orders = [row[name].get(str(k)) for name in ("local", "global") for k in KS]
        shown = " ".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in orders)
        most = f"{100 * row[f'pass@{samples}']:6.1f}%" if temperature else f"{'':7}"
        print(f"{temperature:5.1f} {100 * row['pass@1']:6.1f}% {most} {shown}", flush=True)
        yield f"{temperature:g}", row


def answers_at(model: DiffusionModel, tokenizer: Tokenizer, tasks: Sequence[Task], config: GenerationConfig, samples: int) -> Run:
    """Answer each task `samples` times in one batch, and measure the order of the commits."""
    from mlx_diffucoder.evaluation.run import seed_of
    from mlx_diffucoder.generation import Answer, prompt_ids, stream_batch
    from mlx_diffucoder.training.rollouts import rewards_of

    run = Run()
    for task in tasks:
        ids = prompt_ids(model, tokenizer, task.prompt, config)
        seeded = replace(config, seed=seed_of(0, task.id, 0))
        steps = list(stream_batch(model, tokenizer, [ids] * samples, seeded))
        answers = [Answer.of(tokenizer, last, len(ids), config) for last in steps[-1]]
        run.passed.append(sum(one.passed for one in rewards_of([(task, answer) for answer in answers], Limits())))
        for row, answer in enumerate(answers):
            end = len(ids) + answer.useful_tokens
            masked: NDArray[np.bool_] = np.arange(end) >= len(ids)
            parts = list(within([step[row] for step in steps], np.arange(len(steps[-1][row].tokens)) < end))
            for k in KS:
                for found, of in ((run.local, local_autoregressiveness), (run.overall, global_autoregressiveness)):
                    if (share := of(parts, masked, k)) is not None:
                        found[k].append(share)
    return run


def halved(model: DiffusionModel, tokenizer: Tokenizer, tasks: Sequence[Task], config: GenerationConfig) -> dict[str, float]:
    """Greedy pass@1 with one step a token and with half the steps; `loss` is the relative drop."""
    from mlx_diffucoder.evaluation import evaluate

    shares = {}
    for name, steps in (("all steps", config.max_tokens), ("half of the steps", config.max_tokens // 2)):
        found = list(evaluate(model, tokenizer, tasks, replace(config, steps=steps)))
        shares[name] = sum(result.passed for result in found) / len(found)
    whole, half = shares.values()
    return {**shares, "loss": (whole - half) / whole if whole else 0.0}


def sink(model: DiffusionModel, tokenizer: Tokenizer, tasks: Sequence[Task], max_tokens: int) -> list[float]:
    """Mean probability, over tasks, of the most probable token at each position after the prompt, in the first forward."""
    total = np.zeros(max_tokens)
    for task in tasks:
        ids = tokenizer.encode_chat(task.prompt)
        canvas = mx.array([[*ids, *[tokenizer.mask_id] * max_tokens]])
        hidden = model.model(canvas, 0, None, None)[:, len(ids) - 1 : -1]  # the shift: one row to the left
        probabilities = mx.softmax(model.logits(hidden)[0].astype(mx.float32), axis=-1)
        total += np.array(probabilities.max(axis=-1))
    return (total / len(tasks)).tolist()


def draw(pyplot: Any, report: dict[str, Any], path: Path) -> None:
    """pass@k and autoregressiveness over temperatures, and the entropy sink."""
    figure, (passes, orders, sure) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    rows = {float(name): row for name, row in report["temperatures"].items()}
    for name in sorted({name for row in rows.values() for name in row if name.startswith("pass@")}):
        points = {at: 100 * row[name] for at, row in rows.items() if name in row}
        passes.plot(list(points), list(points.values()), "o-", label=name)
    passes.set(xlabel="temperature", ylabel="%")
    passes.legend()
    for name, style in (("local", "o-"), ("global", "s--")):
        for k in KS:
            known = {at: row[name][str(k)] for at, row in rows.items() if str(k) in row[name]}
            orders.plot(list(known), list(known.values()), style, label=f"{name}@{k}")
    orders.set(xlabel="temperature", ylabel="autoregressiveness")
    orders.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)  # where no line is
    sure.plot(range(1, len(report["sink"]) + 1), report["sink"])
    sure.set(xlabel="tokens from the prompt", ylabel="first forward's confidence")
    for axes in (passes, orders, sure):
        axes.grid(alpha=0.3)
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    typer.run(main)
