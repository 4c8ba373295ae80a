"""`diffucode serve` under load: answers side by side, holes at a deadline, keystrokes, and memory.

    python -m bench.studies.serve bench/tasks/wide.jsonl -m pocket --allow-code-execution

A server runs in a process of its own, and this program is its client. `--in-flight` requests at a time ask for answers, each
streamed; then the middle lines of canonical solutions are asked for as holes with `t_max_predict_ms`, and run with their tests;
then a file is typed one token after the other, with a hole at the cursor, warm and cold; then `--many` small requests watch the
server's memory. Ends with one line of JSON.

Not covered: a Mac, a model of useful size, and clients on other machines. Latencies are those of this machine and its load.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import mean, quantiles
from typing import Annotated, Any

import httpx
import typer

from mlx_diffucoder.tasks import Task, read_tasks

from .infill import body, chosen, passes_with
from .terminal import one_line

NEIGHBOURS = 8
"""Solutions around one that is typed."""
DEADLINES = (250, 1000, 4000)
"""Milliseconds."""


@asynccontextmanager
async def served(model: str, dtype: str) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A client of a server that is ready, and the server's process id."""
    command = [
        sys.executable,
        "-m",
        "mlx_diffucoder",
        "serve",
        "-m",
        model,
        "--dtype",
        dtype,
        "--port",
        "0",
        "--queue",
        "256",
        "-q",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = (process.stdout.readline() if process.stdout else "").strip()
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            while (await client.get("/health")).status_code != 200:
                await asyncio.sleep(0.05)
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()


async def answer(client: httpx.AsyncClient, prompt: str, max_tokens: int) -> dict[str, float]:
    """Ask for an answer; seconds to its first text and to its end, and its tokens."""
    start, first, tokens = time.perf_counter(), 0.0, 0
    asked = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "stream": True}
    async with client.stream("POST", "/v1/chat/completions", json={**asked, "stream_options": {"include_usage": True}}) as lines:
        async for line in lines.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            elif not first and event["choices"][0].get("delta", {}).get("content"):
                first = time.perf_counter() - start
    return {"first": first, "end": time.perf_counter() - start, "tokens": tokens}


async def counted(client: httpx.AsyncClient) -> dict[str, float]:
    """The server's counters."""
    lines = (await client.get("/metrics")).text.splitlines()
    return {name.removeprefix("diffucode_"): float(value) for name, value in (line.split() for line in lines if line[0] != "#")}


async def side_by_side(client: httpx.AsyncClient, prompts: Sequence[str], in_flight: int, max_tokens: int) -> dict[str, Any]:
    """Answers with `in_flight` requests at a time."""
    limit, before, start = asyncio.Semaphore(in_flight), await counted(client), time.perf_counter()

    async def one(prompt: str) -> dict[str, float]:
        async with limit:
            return await answer(client, prompt, max_tokens)

    found = await asyncio.gather(*map(one, prompts))
    seconds, after = time.perf_counter() - start, await counted(client)
    tokens = sum(one["tokens"] for one in found)
    took = {name: after[f"{name}_total"] - before[f"{name}_total"] for name in ("forwards", "positions", "tiles")}
    return {
        "in_flight": in_flight,
        "useful_tokens_per_second": tokens / seconds,
        **{f"{name}_seconds": spread([one[name] for one in found]) for name in ("first", "end")},
        "forwards": took["forwards"],
        "positions_per_useful_token": took["positions"] / tokens,
        "tiles_per_useful_token": took["tiles"] / tokens,
        "useful_tokens_per_forward": tokens / took["forwards"],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the 95th percentile."""
    cuts = quantiles(values, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18]}


async def holes(client: httpx.AsyncClient, tasks: Sequence[Task], deadline: int) -> dict[str, Any]:
    """The middle lines of solutions as holes: how many pass their tests, and how long they take."""
    passed, seconds = 0, list[float]()
    for task in tasks:
        lines, first = body(task)
        hole = min(first + (len(lines) - first) // 2, len(lines) - 1)
        prefix, suffix = "".join(lines[:hole]), "\n" + "".join(lines[hole + 1 :])
        start = time.perf_counter()
        asked = {"input_prefix": prefix, "input_suffix": suffix, "t_max_predict_ms": deadline}
        text = (await client.post("/infill", json=asked)).json()["content"]
        seconds.append(time.perf_counter() - start)
        passed += passes_with(task, prefix + text + suffix)
    return {"deadline_ms": deadline, "passed": passed, "holes": len(tasks), "seconds": spread(seconds)}


async def keystrokes(client: httpx.AsyncClient, tasks: Sequence[Task], typed: int, *, warm: bool) -> dict[str, Any]:
    """Type the middle line of solutions in pieces of a few characters, with a hole at the cursor after each.

    Other solutions stand before and after each, so that the files have some hundred tokens.
    """
    texts, positions, cached, seconds = list[str](), list[int](), list[int](), list[float]()
    for number, task in enumerate(tasks[:typed]):
        lines, first = body(task)
        hole = min(first + (len(lines) - first) // 2, len(lines) - 1)
        others = [str(tasks[(number + typed + step) % len(tasks)].solution) + "\n\n" for step in range(NEIGHBOURS)]
        before = "".join(others[: NEIGHBOURS // 2] + lines[:hole])
        line, suffix = lines[hole].removesuffix("\n"), "".join(["\n", *lines[hole + 1 :], "\n\n", *others[NEIGHBOURS // 2 :]])
        for end in range(0, len(line), 3):
            start = time.perf_counter()
            asked = {"input_prefix": before, "prompt": line[:end], "input_suffix": suffix, "n_predict": 48, "cache_prompt": warm}
            found = (await client.post("/infill", json=asked)).json()
            seconds.append(time.perf_counter() - start)
            texts.append(found["content"])
            positions.append(found["timings"]["positions"])
            cached.append(found["tokens_cached"])
    return {"texts": texts, "positions": mean(positions), "cached": mean(cached), "seconds": spread(seconds)}


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return 1024 * int(said)


async def many(client: httpx.AsyncClient, pid: int, prompts: Sequence[str], count: int) -> list[int]:
    """The server's memory while it answers `count` small requests, at five times."""
    seen, limit = list[int](), asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with limit:
            asked = {"prompt": prompts[number % len(prompts)] + f" # {number}", "max_tokens": 1 + number % 12}
            (await client.post("/v1/completions", json=asked)).raise_for_status()

    for fifth in range(5):
        await asyncio.gather(*(one(number) for number in range(fifth * count // 5, (fifth + 1) * count // 5)))
        seen.append(resident(pid))
    return seen


async def measure(
    tasks: list[Task], model: str, dtype: str, in_flight: list[int], prompts: int, many_: int, typed: int
) -> dict[str, Any]:
    texts, report = [task.prompt for task in tasks][:prompts], dict[str, Any]()
    async with served(model, dtype) as (client, pid):
        await answer(client, texts[0], 8)
        report["answers"] = [await side_by_side(client, texts, count, 64) for count in in_flight]
        report["holes"] = [await holes(client, chosen(tasks, 100), deadline) for deadline in DEADLINES]
        cold, warm = [await keystrokes(client, chosen(tasks, 100), typed, warm=one) for one in (False, True)]
        same = [one == other for one, other in zip(cold.pop("texts"), warm.pop("texts"), strict=True)]
        report["keystrokes"] = {"cold": cold, "warm": warm, "count": len(same), "equal_texts": sum(same)}
        report["resident_bytes"] = await many(client, pid, texts, many_)
    return report


def main(
    tasks: Annotated[Path, typer.Argument(help="A task file with canonical solutions.")],
    model: Annotated[str, typer.Option("--model", "-m")] = "pocket",
    dtype: Annotated[str, typer.Option(help="The dtype to compute in.")] = "float32",
    in_flight: Annotated[list[int] | None, typer.Option(help="Requests at a time; repeatable.")] = None,
    prompts: Annotated[int, typer.Option(min=2, help="Answers to ask for, each time.")] = 64,
    typed: Annotated[int, typer.Option(min=1, help="Lines to type.")] = 10,
    many: Annotated[int, typer.Option(min=5, help="Small requests for the memory.")] = 2000,
    allow_code_execution: Annotated[bool, typer.Option("--allow-code-execution")] = False,
) -> None:
    """Measure a server under load."""
    from mlx_diffucoder.errors import ExecutionError

    with one_line("serve"):
        if not allow_code_execution:
            raise ExecutionError("the filled solutions are run with their tests; if you accept that, add --allow-code-execution")
        given = read_tasks(tasks)
        report = asyncio.run(measure(given, model, dtype, in_flight or [1, 4, 16, 64], prompts, many, typed))
    for row in report["answers"]:
        print(
            "{in_flight:3} in flight: {useful_tokens_per_second:.1f} useful tokens/s, {positions_per_useful_token:.2f} positions"
            " and {tiles_per_useful_token:.3f} tiles a useful token".format(**row)
        )
    for row in report["holes"]:
        print("holes within {deadline_ms} ms: {passed} of {holes} pass".format(**row))
    print(json.dumps({"tasks": str(tasks), "load": os.getloadavg()[0], **report}))


if __name__ == "__main__":
    typer.run(main)
