"""`/v1/edit/completions` of `diffucode serve`: how often a broken word in a solution is repaired, and a sound one changed.

    python -m bench.studies.edits bench/tasks/wide.jsonl -m pocket

The region to edit is a canonical solution of three lines or more, with the cursor at its end. It is asked for as it is, with a
letter left out of a name, and with another operator. Ends with one line of JSON: for each kind how many regions there were, to
how many something was added at the cursor, how many came back changed otherwise, and how many as before they were broken.

Not covered: renamings that leave some places behind, and edits of several words.
"""

import asyncio
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from mlx_diffucoder.tasks import read_tasks

from .serve import served

OTHER = {" += ": " -= ", " > ": " < ", " == ": " != ", " % ": " / ", " + ": " - ", " and ": " or ", " // ": " * "}
"""Operators, each with another."""
KEYWORDS = {"return", "while", "else", "None", "True", "False", "elif", "lambda"}


def broken(text: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """A text as it is, and broken: each with the kind. The first line stays."""
    yield "sound", text
    start = text.index("\n")
    names = [found for found in re.finditer(r"[a-z_]{4,}", text) if found.start() > start and found[0] not in KEYWORDS]
    if names:
        name = draw.choice(names)
        place = name.start() + draw.randrange(1, len(name[0]) - 1)
        yield "letter", text[:place] + text[place + 1 :]
    operators = [found for one in OTHER for found in re.finditer(re.escape(one), text) if found.start() > start]
    if operators:
        found = draw.choice(operators)
        yield "operator", text[: found.start()] + OTHER[found[0]] + text[found.end() :]


async def edited(client: httpx.AsyncClient, before: str, region: str) -> str:
    """The region that comes back; itself if nothing is to be changed."""
    file = (
        f"<|current_file_content|>\n{before}\n<|code_to_edit|>\n{region}<|cursor|>\n<|/code_to_edit|>\n<|/current_file_content|>"
    )
    asked = {"messages": [{"role": "user", "content": file}], "max_tokens": 16}
    answer = (await client.post("/v1/edit/completions", json=asked)).json()["choices"][0]["message"]["content"]
    return region if answer == "None" else answer.removeprefix("```\n").removesuffix("\n```")


async def measure(solutions: list[str], model: str, dtype: str, others: int) -> dict[str, Any]:
    """The counts of each kind."""
    found, draw = dict[str, dict[str, int]](), random.Random(0)
    async with served(model, dtype) as (client, _):
        for number, solution in enumerate(solutions):
            for kind, region in broken(solution, draw):
                before = "\n\n\n".join(solutions[number - other - 1] for other in range(others))
                answer = await edited(client, before + "\n", region)
                counts = found.setdefault(kind, {"regions": 0, "written_at_the_end": 0, "changed": 0, "right": 0})
                counts["regions"] += 1
                added = answer != region and answer.startswith(region)
                counts["written_at_the_end"] += added
                counts["changed"] += answer != region and not added
                counts["right"] += answer == solution
    return found


def main(
    tasks: Annotated[Path, typer.Argument(help="A task file with canonical solutions.")],
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option(help="The dtype to compute in.")] = "float32",
    most: Annotated[int, typer.Option(help="Solutions at most.")] = 1000,
    others: Annotated[int, typer.Option(help="Solutions before the region.")] = 0,
) -> None:
    """Measure next edits."""
    texts = [str(task.solution).rstrip("\n") for task in read_tasks(tasks)]
    long = [text for text in texts if text.count("\n") >= 2]
    print(json.dumps(asyncio.run(measure(long[:most], model, dtype, others))))


if __name__ == "__main__":
    typer.run(main)
