"""Variance of the coupled estimator of log π, next to one with independent masks at the same cost.

    python -m bench.studies.estimator bench/tasks/functions.jsonl

takes the tasks' own solutions as answers (with `--temp`, answers that the model draws), draws pairs of masks for each,
and prints variances: of a token's log π, of an answer's (the mean over its tokens), and of the gradient of that (summed
over all weights). Both estimators forward the fully hidden canvas and two with t and 1 - t, and have the same mean.
Coupled masks are complementary, independent ones are not. Both use the same draws: the first mask of one pair and the
second of another are independent. Variances are averaged over t in [0.2, 0.8]; the fully hidden term adds nothing to
them. Ends with one line of JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import typer
from mlx.utils import tree_flatten

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import TaskError
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.tokenizer import Tokenizer
from mlx_diffucoder.training.coupled import T_RANGE, Pair
from mlx_diffucoder.training.policy import Answers

from .terminal import one_line

KINDS = ("coupled", "independent")
MEASURES = {"token": "of a token's log pi", "answer": "of an answer's", "gradient": "of its gradient"}


def main(
    tasks: Annotated[Path, typer.Argument(help="Tasks with solutions, as diffucode eval reads them.")],
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option(help="The dtype to compute in.")] = "float32",
    max_tokens: Annotated[int, typer.Option(min=1, help="Masks after the prompt.")] = 64,
    limit: Annotated[int, typer.Option(min=1, help="Use only this many tasks.")] = 8,
    times: Annotated[int, typer.Option(min=1, help="Values of t for each answer.")] = 8,
    draws: Annotated[int, typer.Option(min=2, help="Pairs of masks at each t.")] = 8,
    gradients: Annotated[bool, typer.Option(help="Measure the variance of the gradient, too.")] = True,
    temp: Annotated[float, typer.Option(help="Above 0: use answers that the model draws at this temperature.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Measure the estimator's variance."""
    from mlx_diffucoder.loading import load
    from mlx_diffucoder.tasks import read_tasks
    from mlx_diffucoder.training.rollouts import write

    with one_line("estimator"):
        network, tokenizer = load(model, dtype=dtype)
        solved = [(task.prompt, task.solution) for task in read_tasks(tasks) if task.solution][:limit]
        if not solved:
            raise TaskError(f"{tasks}: no task has a canonical_solution to measure on")
        decoding = GenerationConfig(max_tokens=max_tokens, temperature=temp, seed=seed)
        answers = [
            write(network, tokenizer, tokenizer.encode_chat(prompt), 1, decoding).answers
            if temp
            else answer_of(tokenizer, prompt, solution, max_tokens)
            for prompt, solution in solved
        ]
        report = measure(network, tokenizer.mask_id, answers, times=times, draws=draws, seed=seed, gradients=gradients)
    print(f"variances, mean of {len(answers)} answers, {times} values of t and {draws} pairs of masks at each")
    print(f"{'':24} {'coupled':>12} {'independent':>12} {'ratio':>7}")
    for name, coupled in report["coupled"].items():
        independent = report["independent"][name]
        print(f"{MEASURES[name]:24} {coupled:12.4g} {independent:12.4g} {coupled / independent:7.3f}")
    print(
        json.dumps(
            {
                "model": model,
                "dtype": dtype,
                "tasks": str(tasks),
                "times": times,
                "draws": draws,
                "answers": len(answers),
                **report,
            }
        )
    )


def answer_of(tokenizer: Tokenizer, prompt: str, solution: str, max_tokens: int) -> Answers:
    """A solution as the answer on a canvas. Raises `TaskError` if it does not fit."""
    asked = tokenizer.encode_chat(prompt)
    said = [*tokenizer.encode_plain(solution), tokenizer.end_id(chat=True)]
    if len(said) > max_tokens:
        raise TaskError(f"a solution has {len(said)} tokens, more than --max-tokens {max_tokens}")
    tokens = [*asked, *said, *[tokenizer.pad_id] * (max_tokens - len(said))]
    return Answers(np.array([tokens], dtype=np.int32), len(asked), np.array([len(said)]))


def measure(
    model: DiffusionModel,
    mask_id: int,
    answers: Sequence[Answers],
    *,
    times: int,
    draws: int,
    seed: int = 0,
    gradients: bool = True,
) -> dict[str, dict[str, float]]:
    """The variances of `MEASURES` for each kind of masks, averaged over the answers and `times` values of t.

    Args:
        draws: pairs of masks at each t.
    """
    rng = np.random.default_rng(seed)
    model.eval()
    model.unfreeze()
    names = [name for name in MEASURES if gradients or name != "gradient"]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for answer in answers:
        for place in range(times):
            t = T_RANGE[0] + (T_RANGE[1] - T_RANGE[0]) * (place + rng.random()) / times
            pairs = [Pair(answer.hidden & (rng.random(answer.tokens.shape) < t), np.array([t])) for _ in range(draws)]
            for name, moments in _moments(model, mask_id, answer, pairs, gradients).items():
                found[name].append((moments.coupled, moments.independent))
    means = {name: np.mean(rows, axis=0) for name, rows in found.items()}
    return {kind: {name: float(mean[place]) for name, mean in means.items()} for place, kind in enumerate(KINDS)}


@dataclass
class Moments:
    """Running moments of the two parts of a sum, over joint draws of arrays of equal size."""

    sums: list[mx.array] = field(default_factory=list)
    squares: float = 0.0
    products: float = 0.0
    count: int = 0

    def add(self, first: mx.array, second: mx.array) -> None:
        self.sums = [a + b for a, b in zip(self.sums, (first, second), strict=True)] if self.sums else [first, second]
        squares, products = (first * first + second * second).sum(), (first * second).sum()
        mx.eval(self.sums, squares, products)
        self.squares += float(squares)
        self.products += float(products)
        self.count += 1

    @property
    def independent(self) -> float:
        """The variance of the sum with parts from different draws; summed over the array."""
        means = sum(float((one * one).sum()) for one in self.sums) / self.count
        return (self.squares - means) / (self.count - 1)

    @property
    def coupled(self) -> float:
        """The variance of the sum with both parts from the same draw."""
        means = float((self.sums[0] * self.sums[1]).sum()) / self.count
        return self.independent + 2 * (self.products - means) / (self.count - 1)


def _moments(model: DiffusionModel, mask_id: int, answer: Answers, pairs: Sequence[Pair], gradients: bool) -> dict[str, Moments]:
    found = {name: Moments() for name in MEASURES if gradients or name != "gradient"}

    def mean(canvas: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
        tokens = term(model, answer, canvas, weights)
        return tokens.mean(), tokens

    gradient_of = nn.value_and_grad(model, mean)
    for pair in pairs:
        sides = []
        for mask, t in ((pair.first, pair.t[0]), (answer.hidden & ~pair.first, 1 - pair.t[0])):
            canvas = mx.array(np.where(mask, np.int32(mask_id), answer.tokens))
            weights = mx.array((mask[answer.scored] / t).astype(np.float32))
            if gradients:
                (_, tokens), gradient = gradient_of(canvas, weights)
                flat: Any = tree_flatten(gradient)
                whole = mx.concatenate([value.reshape(-1) for _, value in flat])
            else:
                tokens, whole = term(model, answer, canvas, weights), mx.zeros(0)
            sides.append({"token": tokens / len(tokens) ** 0.5, "answer": tokens.mean(), "gradient": whole})
        for name, moments in found.items():
            moments.add(sides[0][name], sides[1][name])
    return found


def term(model: DiffusionModel, answer: Answers, canvas: mx.array, weights: mx.array) -> mx.array:
    """The term `[M]` of one canvas `[1, L]` in the estimate of each token's log π; `weights` are 1/t where it is hidden."""
    places = np.flatnonzero(answer.scored[0])
    logits = model.logits(model.model(canvas, 0, None, None)[:, mx.array(places - 1)])[0].astype(mx.float32)  # [M, V]
    return -0.5 * weights * nn.losses.cross_entropy(logits, mx.array(answer.tokens[0, places]))


if __name__ == "__main__":
    typer.run(main)
