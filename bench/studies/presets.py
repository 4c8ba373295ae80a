"""Rules and windows side by side, on tasks: accuracy, forwards, tiles.

    python -m bench.studies.presets wide functions

prints a line for each setting as soon as it is done. The table of presets in docs/results comes from this command.
"""

import json
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from mlx_diffucoder.config import PRESETS, GenerationConfig
from mlx_diffucoder.decoding.result import TILE, Stats
from mlx_diffucoder.evaluation import Limits, code_of
from mlx_diffucoder.evaluation.run import run_answer
from mlx_diffucoder.generation import Answer, stream_generate
from mlx_diffucoder.loading import load
from mlx_diffucoder.statistics import confidence_interval
from mlx_diffucoder.tasks import Task, read_tasks

TASKS = Path(__file__).parents[1] / "tasks"
SETTINGS = {
    **{name: f"{preset['rule']}@{preset['window']}" for name, preset in PRESETS.items()},
    "left to right": "leftmost@sliding:width=1,suffix=28",
    "sliding 16+0, 0.9": "threshold:tau=0.9@sliding:width=16,suffix=0",
    "sliding 24+4, 0.9": "threshold:tau=0.9@sliding:width=24,suffix=4",
    "tree 32, 0.95": "threshold:tau=0.95@tree:rows=32",
    "tree 32, verified only": "leftmost@tree:rows=32",
    "tree 8, 0.95": "threshold:tau=0.95@tree:rows=8",
    "blocks-dual 32, 0.9": "threshold:tau=0.9@blocks-dual:size=32",
}


def line(model: str, tasks: list[Task], rule: str, window: str, max_tokens: int) -> tuple[list[str], str]:
    """The texts of a setting, and its numbers in one line."""
    network, tokenizer = load(model, dtype="float32")
    config = GenerationConfig(rule=rule, window=window, max_tokens=max_tokens)
    nfe = positions = useful = 0
    rows, late, passed, texts = Counter[int](), Counter[int](), list[float](), list[str]()
    start = time.process_time()
    for task in tasks:
        *_, last = stream_generate(network, tokenizer, task.prompt, config)
        answer = Answer.of(tokenizer, last, len(last.tokens) - max_tokens, config)
        texts.append(answer.text)
        nfe, positions, useful = nfe + last.nfe, positions + last.positions, useful + answer.useful_tokens
        rows.update(last.rows)
        late.update(last.rows[1:])
    seconds = time.process_time() - start
    for task, text in zip(tasks, texts, strict=True):
        passed.append(float(run_answer(code_of(text, task), task, Limits()).passed))
    stats = Stats(nfe=nfe, positions=positions, useful_tokens=useful, seconds=seconds, peak_memory_bytes=0, rows=rows)
    low, high = confidence_interval(passed)
    wide = sum(count for row, count in late.items() if row > TILE) / max(1, late.total())
    return texts, (
        f"{100 * sum(passed) / len(passed):5.1f} % ({100 * low:.1f} to {100 * high:.1f})  {nfe / len(tasks):5.2f} forwards"
        f"  {stats.tiles_per_useful_token or 0:.3f} tiles/token  {stats.positions_per_useful_token:5.2f} positions/token"
        f"  {useful / nfe:4.2f} tokens/forward  {100 * wide:4.1f} % of later forwards over {TILE} rows"
        f"  {useful / seconds:6.1f} tokens/CPU-s"
    )


def main(
    files: list[str],
    setting: Annotated[list[str] | None, typer.Option(help="NAME=RULE@WINDOW, or a name of the table.")] = None,
    model: str = "pocket",
    split: Annotated[str | None, typer.Option(help="Only tasks with this split.")] = None,
    max_tokens: int = 64,
    limit: int | None = None,
) -> None:
    """Decode every task with every setting.

    Args:
        files: task files, or `wide` and `functions` for those of `bench/tasks`.
    """
    chosen = {name: rule or SETTINGS[name] for name, _, rule in (one.partition("=") for one in setting or SETTINGS)}
    for file in files:
        path = TASKS / f"{file}.jsonl" if (TASKS / f"{file}.jsonl").exists() else Path(file)
        tasks = [task for task in read_tasks(path) if split is None or _split_of(path)[task.id] == split][:limit]
        print(f"{path.name}: {len(tasks)} tasks, {model}, float32, max_tokens {max_tokens}", flush=True)
        texts: dict[str, list[str]] = {}
        for name, one in chosen.items():
            rule, _, window = one.partition("@")
            texts[name], numbers = line(model, tasks, rule, window, max_tokens)
            first = next(iter(texts))
            same = sum(a == b for a, b in zip(texts[name], texts[first], strict=True))
            print(f"{name:24}{numbers}  {same} texts as {first}", flush=True)


@cache
def _split_of(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text().splitlines())
    return {row["task_id"]: row.get("split", "") for row in rows}


if __name__ == "__main__":
    typer.run(main)
