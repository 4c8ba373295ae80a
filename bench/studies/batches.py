"""What prompts cost in one batch, and one by one.

    python -m bench.studies.batches

answers the first `--prompts` prompts of a task file with the bundled model in float32: one by one, in one batch, and in a
batch that they join one after the other, `--apart` steps between two. For each window it prints forwards, positions and
seconds, and how many texts are the same. Fails if a batch forwards more than 1.1 times the positions of one by one, or
changes a text. Ends with one line of JSON.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder import GenerationConfig, load, stream_batch, stream_generate
from mlx_diffucoder.decoding.batch import Batch
from mlx_diffucoder.decoding.result import Step
from mlx_diffucoder.decoding.rules import rule_for
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.forbidden import forbidden_ids
from mlx_diffucoder.generation import canvas_of, prompt_ids
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.tasks import read_tasks
from mlx_diffucoder.tokenizer import Tokenizer

MOST = 1.1


def joining(
    model: DiffusionModel, tokenizer: Tokenizer, prompts: list[str], config: GenerationConfig, apart: int
) -> Iterator[dict[int, Step]]:
    """The steps of a batch that each prompt joins `apart` steps after the one before it."""
    batch, forbidden, step = Batch(model), forbidden_ids(tokenizer, model.config.vocab_size), 0
    left = [prompt_ids(model, tokenizer, prompt, config) for prompt in prompts]
    while batch or left:
        if left and step % apart == 0:
            canvas = canvas_of(tokenizer, left.pop(0), config)
            batch.add(canvas, rule_for(config), window_for(config), config, forbidden=forbidden)
        yield batch.step()
        step += 1


def measured(found: list[Step], nfe: int, began: float) -> dict[str, Any]:
    """The counts of all prompts; `found` has the last step of each."""
    return {"forwards": nfe, "positions": sum(step.positions for step in found), "seconds": time.perf_counter() - began}


def main(
    tasks: Annotated[Path, typer.Argument()] = Path("bench/tasks/wide.jsonl"),
    prompts: Annotated[int, typer.Option(min=2)] = 16,
    max_tokens: Annotated[int, typer.Option(min=1)] = 96,
    temp: Annotated[float, typer.Option(min=0)] = 0.0,
    apart: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Count what prompts cost together and alone."""
    (model, tokenizer), failed = load("pocket", dtype="float32"), False
    texts, rows = [task.prompt for task in read_tasks(tasks, infilling=False)[:prompts]], dict[str, Any]()
    for window in ("tree", "sliding"):
        config = GenerationConfig(max_tokens=max_tokens, window=window, temperature=temp, seed=0)
        began = time.perf_counter()
        alone = [list(stream_generate(model, tokenizer, text, config))[-1] for text in texts]
        rows[window] = {"one by one": measured(alone, sum(step.nfe for step in alone), began)}
        began = time.perf_counter()
        *_, last = stream_batch(model, tokenizer, texts, config)
        found = {"one batch": (list(last), measured(list(last), max(step.nfe for step in last), began))}
        began, joined, steps = time.perf_counter(), dict[int, Step](), 0
        for step in joining(model, tokenizer, texts, config, apart):
            joined, steps = joined | step, steps + 1
        in_order = [joined[id] for id in sorted(joined)]
        found[f"joining every {apart} steps"] = in_order, measured(in_order, steps + len(texts), began)
        for name, (ours, counts) in found.items():
            same = sum(one.tokens.tolist() == other.tokens.tolist() for one, other in zip(alone, ours, strict=True))
            ratio = counts["positions"] / rows[window]["one by one"]["positions"]
            rows[window][name] = {**counts, "same": same, "ratio": ratio}
            failed |= ratio > MOST or same < len(texts)
        for name, row in rows[window].items():
            same = f"  {row['same']} of {len(texts)} texts the same" if "same" in row else ""
            print(
                f"{window:8} {name:24} {row['forwards']:4} forwards {row['positions']:6} positions {row['seconds']:6.2f} s{same}"
            )
    print(json.dumps({"prompts": len(texts), "temperature": temp, "max_tokens": max_tokens, "windows": rows}))
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
