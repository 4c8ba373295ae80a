"""Useful tokens a second of CPU time, compared with other decoders of the same weights, in pairs.

    python -m bench.studies.ratios bench/tasks/wide.jsonl --split unseen

Every decoder answers a prompt before the next prompt begins, in an order that changes; all prompts make a round. Timed is the
process's CPU time, so that other programs on the machine change little. The decoders to compare with are mlx-lm's autoregressive
generation, which writes as many tokens as the first decoder's answer has (what it writes means nothing), and Fast-dLLM's dual
cache as published, on two canvases. Prints a table and ends with one line of JSON: of each ratio the median over the rounds,
the least and the most.

Not covered: whether the answers are right (`bench.studies.frontier`), and any time on a GPU.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.bench.baselines import same_weights
from mlx_diffucoder.bench.decoders import Run, denoised
from mlx_diffucoder.bench.subjects import Subject
from mlx_diffucoder.bench.timing import Spread
from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.decoding.result import TILE

from .frontier import GRID, tasks_of
from .terminal import one_line

MLX_LM = "mlx-lm"
CANVASES = (64, 256)
PUBLISHED = {f"Fast-dLLM, canvas {canvas}": {**GRID["blocks, dual, as published"], "max_tokens": canvas} for canvas in CANVASES}


@dataclass
class Contender:
    """A decoder: a function that answers the prompt of a given number.

    Attributes:
        known: tokens of each prompt.
        seconds: CPU time of each round.
        runs: the answers of the last round.
    """

    answer: Callable[[int], Run]
    known: list[int]
    seconds: list[float] = field(default_factory=list)
    runs: dict[int, Run] = field(default_factory=dict)

    def run(self, number: int) -> None:
        """Answer one prompt in the latest round."""
        start = time.process_time()
        self.runs[number] = self.answer(number)
        self.seconds[-1] += time.process_time() - start

    @property
    def useful_tokens(self) -> int:
        return sum(run.useful_tokens for run in self.runs.values())

    def to_dict(self, first: "Contender") -> dict[str, Any]:
        """Ready for JSON; `ratio` is the first decoder's useful tokens a second over this one's, round by round."""
        useful = self.useful_tokens
        pairs = zip(self.seconds, first.seconds, strict=True)
        return {
            "cpu_seconds": asdict(Spread.of(self.seconds)),
            "useful_tokens": useful,
            "nfe": sum(run.nfe for run in self.runs.values()) / len(self.runs),
            "positions_per_useful_token": sum(run.positions for run in self.runs.values()) / useful,
            "tiles_per_useful_token": sum(map(self._tiles, self.runs)) / useful,
            "ratio": asdict(Spread.of([first.useful_tokens / mine * theirs / useful for theirs, mine in pairs])),
        }

    def _tiles(self, number: int) -> int:
        """Tiles of an answer's forwards, the prompt's rows in the first one left out."""
        forwards = self.runs[number].forwards
        rows = [row - self.known[number] * (index == 0) for index, (_, row) in enumerate(forwards)]
        return sum(count * -(-max(0, round(row)) // TILE) for (count, _), row in zip(forwards, rows, strict=True))


def contenders(subject: Subject, prompts: list[list[int]], config: GenerationConfig) -> dict[str, Contender]:
    """The decoders by their names, the one that the others are compared with first."""

    known = [len(ids) for ids in prompts]

    def denoising(fields: GenerationConfig) -> Contender:
        return Contender(lambda number: denoised(subject, prompts[number], fields, None), known)

    first, baseline = denoising(config), same_weights(subject)
    return {
        str(config.window): first,
        MLX_LM: Contender(lambda number: baseline.run(prompts[number], first.runs[number].useful_tokens), known),
        **{name: denoising(GenerationConfig(**fields, seed=0)) for name, fields in PUBLISHED.items()},
    }


def measure(every: dict[str, Contender], prompts: int, rounds: int) -> Iterator[int]:
    """Answer every prompt with every decoder, `rounds` times; yields the number of each round when it is done."""
    for index, one in enumerate(every.values()):  # no round: it pays for what is made once, and says how long the answers are
        for number in range(min(2, prompts) if index else prompts):
            one.runs[number] = one.answer(number)
    for index in range(rounds):
        for one in every.values():
            one.seconds.append(0.0)
        for number in range(prompts):
            order = list(every.values())
            start = (number + index) % len(order)
            for one in order[start:] + order[:start]:
                one.run(number)
        yield index


def main(
    tasks: Annotated[Path, typer.Argument(help="A task file, as diffucode eval reads it.")],
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option(help="The dtype to compute in.")] = "float32",
    rule: Annotated[str, typer.Option(help="The first decoder's rule.")] = "threshold:tau=0.95",
    window: Annotated[str, typer.Option(help="The first decoder's window.")] = "tree:rows=24",
    max_tokens: Annotated[int, typer.Option(help="The first decoder's canvas.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many tasks.")] = None,
    split: Annotated[str | None, typer.Option(help="Use only the tasks of this split.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Compare the CPU time of a decoder with that of others, prompt by prompt."""
    from mlx_diffucoder.loading import load

    with one_line("ratios"):
        network, tokenizer = load(model, dtype=dtype)
        subject = Subject(model, network, tokenizer, random=False)
        prompts = [tokenizer.encode_chat(task.prompt) for task in tasks_of(tasks, split)[:limit]]
        every = contenders(subject, prompts, GenerationConfig(rule=rule, window=window, max_tokens=max_tokens, seed=0))
        for index in measure(every, len(prompts), rounds):
            print(f"round {index + 1} of {rounds}", flush=True)
    first = next(iter(every.values()))
    report = {name: one.to_dict(first) for name, one in every.items()}
    print(f"{'':24}{'CPU s':>10}{'useful tokens':>16}{'NFE':>8}{'pos/token':>12}{'tiles/token':>13}   ratio (least, most)")
    for name, row in report.items():
        ratio = "{median:.2f} ({low:.2f}, {high:.2f})".format(**row["ratio"])
        print(
            f"{name:24}{row['cpu_seconds']['median']:10.2f}{row['useful_tokens']:16}{row['nfe']:8.2f}"
            f"{row['positions_per_useful_token']:12.2f}{row['tiles_per_useful_token']:13.3f}   {ratio}"
        )
    print(json.dumps({"tasks": str(tasks), "prompts": len(prompts), "rounds": rounds, "decoders": report}))


if __name__ == "__main__":
    typer.run(main)
