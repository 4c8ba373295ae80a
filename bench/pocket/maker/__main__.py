"""Make tasks to learn from and to evaluate on: train, valid, seen, unseen and wide.jsonl in a folder.

    python -m bench.pocket.maker FOLDER

`train` and `valid` hold seen compositions, `seen` and `unseen` are for evaluation, and `wide` is both
without the language of the first pocket model's tasks.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import track

from mlx_diffucoder.errors import DiffucoderError, TaskError

from .drawing import CLASSIC_SHARE, COPIED_SHARE, NESTED_SHARE, WIDE_SHARE, tasks
from .making import Made

WIDE = {"unseen": 200, "seen": 100}


def main() -> None:
    """Read the arguments, write the files, print how many tasks of each family they hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.maker", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--train", type=_size, default=200_000, help="tasks to train on [%(default)s]")
    parser.add_argument("--valid", type=_size, default=1000, help="tasks to validate on [%(default)s]")
    parser.add_argument("--evaluate", type=_size, default=200, help="tasks in each of seen and unseen [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files [%(default)s]")
    parser.add_argument(
        "--classic",
        type=float,
        default=CLASSIC_SHARE,
        help="the share of train and valid in the language of bench/tasks/functions.jsonl [%(default)s]",
    )
    parser.add_argument(
        "--nested",
        type=float,
        default=NESTED_SHARE,
        help="the share of the others in train and valid with an operation more, where one can be had [%(default)s]",
    )
    parser.add_argument(
        "--wide",
        type=float,
        default=WIDE_SHARE,
        help="the share of numbers, letters and names in train and valid that are any, not those of evaluations [%(default)s]",
    )
    parser.add_argument(
        "--copied",
        type=float,
        default=COPIED_SHARE,
        help="the share of train and valid whose numbers and letters are mostly to be copied [%(default)s]",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    given = parser.parse_args()
    sizes = {"train": given.train, "valid": given.valid, "seen": given.evaluate, "unseen": given.evaluate}
    drawn = {"classic": given.classic, "nested": given.nested, "wide": given.wide, "copied": given.copied}
    try:
        print(json.dumps(write(given.folder, sizes, given.seed, **drawn, force=given.force), indent=1))
    except DiffucoderError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def write(
    folder: Path,
    sizes: dict[str, int],
    seed: int,
    *,
    classic: float = CLASSIC_SHARE,
    nested: float = NESTED_SHARE,
    wide: float = WIDE_SHARE,
    copied: float = COPIED_SHARE,
    force: bool = False,
) -> dict[str, dict[str, int]]:
    """Write the files and return how many tasks of each family they hold.

    All are made before any appears under its name, so that a folder never holds files of two seeds.

    Raises:
        TaskError: a file is there already and `force` is not given, or one cannot be written.
    """
    names = [*sizes, "wide"]
    there = [path for path in (folder / f"{name}.jsonl" for name in names) if path.exists()]
    if there and not force:
        raise TaskError(f"{there[0]} is there already; give another folder, or --force to replace it")
    parts = {name: folder / f".{name}.jsonl.part" for name in names}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = {
            name: tasks(size, seed, name, classic=classic, nested=nested, wide=wide, copied=copied)
            for name, size in sizes.items()
        } | {"wide": wide_tasks(seed)}
        counts = {name: _write(part, name, made[name], sizes.get(name, sum(WIDE.values()))) for name, part in parts.items()}
        for name, part in parts.items():
            part.replace(folder / f"{name}.jsonl")
    except OSError as error:
        raise TaskError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        for part in parts.values():
            if folder.is_dir():
                part.unlink(missing_ok=True)
    return counts


def _write(path: Path, name: str, made: Iterator[Made], size: int) -> dict[str, int]:
    console, families = Console(stderr=True), Counter[str]()
    with path.open("w", encoding="utf-8") as file:
        shown = track(made, total=size, description=f"{name} tasks", console=console, disable=not console.is_terminal)
        for number, task in enumerate(shown):
            file.write(json.dumps(task.row(f"{name}/{number}"), ensure_ascii=False) + "\n")
            families[task.family] += 1
    return dict(sorted(families.items()))


def wide_tasks(seed: int) -> Iterator[Made]:
    """The evaluation of the wide families alone: mostly compositions that training never sees."""
    return chain.from_iterable(tasks(count, seed, split, only_wide=True) for split, count in WIDE.items())


if __name__ == "__main__":
    main()
