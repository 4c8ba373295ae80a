"""`python -m mlx_diffucoder.training.maker FOLDER`: write train, valid, seen and unseen tasks."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ...errors import DiffucoderError, TaskError
from .making import Made, tasks


def main() -> None:
    """Read the arguments, write the files, print how many of each family they hold."""
    parser = argparse.ArgumentParser(prog="python -m mlx_diffucoder.training.maker", description=__doc__)
    parser.add_argument("folder", type=Path, help="where train.jsonl, valid.jsonl, seen.jsonl and unseen.jsonl go")
    parser.add_argument("--train", type=int, default=200_000, help="tasks to train on [%(default)s]")
    parser.add_argument("--valid", type=int, default=1000, help="tasks to validate on [%(default)s]")
    parser.add_argument("--evaluate", type=int, default=200, help="tasks each of seen and unseen [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    given = parser.parse_args()
    sizes = {"train": given.train, "valid": given.valid, "seen": given.evaluate, "unseen": given.evaluate}
    try:
        print(json.dumps(write(given.folder, sizes, given.seed, force=given.force), indent=1))
    except DiffucoderError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def write(folder: Path, sizes: dict[str, int], seed: int, *, force: bool = False) -> dict[str, dict[str, int]]:
    """Write one file a split and return how many tasks of each family it holds; a file appears only once it is whole."""
    there = [folder / f"{split}.jsonl" for split in sizes if (folder / f"{split}.jsonl").exists()]
    if there and not force:
        raise TaskError(f"{there[0]} is there already; give another folder, or --force to replace it")
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, dict[str, int]] = {}
    for split, size in sizes.items():
        made, part = Counter[str](), folder / f".{split}.part"
        try:
            with part.open("w", encoding="utf-8") as file:
                for number, task in enumerate(_shown(tasks(size, seed, split), size, split)):
                    file.write(json.dumps(task.row(number), ensure_ascii=False) + "\n")
                    made[task.family] += 1
            part.replace(folder / f"{split}.jsonl")
        finally:
            part.unlink(missing_ok=True)
        counts[split] = dict(sorted(made.items()))
    return counts


def _shown(made: Iterable[Made], size: int, split: str) -> Iterable[Made]:
    console = Console(stderr=True)
    return track(made, total=size, description=f"{split} tasks", console=console, disable=not console.is_terminal)


if __name__ == "__main__":
    main()
