"""The process of one machine. The first machine starts it with `python -m mlx_diffucoder.cluster.worker`.

It prints one line about itself and reads one line of JSON: where the scheduler is, and the keys of this run. Then it works
until its standard input ends, which it does however the first machine ends.
"""

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

HELLO = "diffucode-worker "
"""What the line about itself begins with: a login script may print others before it."""
PACKAGES = ("mlx-diffucoder", "mlx", "distributed")
"""Those that must be equal on all machines: results depend on them, or what is sent does."""


def versions() -> dict[str, str]:
    """The versions of `PACKAGES` here; a dash for one that is missing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def main() -> None:
    """Work for the first machine. Returns never: the process ends with its standard input."""
    print(HELLO + json.dumps(versions()), flush=True)
    job = json.loads(sys.stdin.buffer.readline() or "{}")
    if "measure" in job:
        from .measure import measure

        for found in measure(**job["measure"]):
            print(HELLO + json.dumps(found), flush=True)
    elif job:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        folder = tempfile.mkdtemp(prefix="diffucode-worker-")
        threading.Thread(target=_end_with_stdin, args=(folder,), daemon=True).start()
        asyncio.run(_work(job, folder))
        _end(folder)


async def _work(job: dict[str, Any], folder: str) -> None:
    from distributed import Security, Worker

    own, first = "127.0.0.1", "127.0.0.1"
    if job["ssh"]:  # how this machine and the first one see each other
        first, _, own, _ = os.environ["SSH_CONNECTION"].split()
    async with Worker(
        f"tls://{first}:{job['port']}",
        nthreads=1,
        name=job["name"],
        host=own,
        security=Security(require_encryption=True, **job["tls"]),
        memory_limit=0,  # the model takes most of it
        dashboard_address="127.0.0.1:0",  # it has no TLS
        local_directory=folder,
        death_timeout=60,
    ) as worker:
        await worker.finished()


def _end_with_stdin(folder: str) -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    _end(folder)


def _end(folder: str) -> None:
    """End at once, in the middle of an answer too, with the processes that run its code."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
