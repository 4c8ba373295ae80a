"""Requests run in threads that the program never waits for.

A request can hang where Python cannot stop it (a name that is looked up, a lock, the Rust code of Xet). So the main thread
waits only for news of it: Ctrl-C and SIGTERM end it at once. What had arrived stays on the disk, and the kernel releases the
locks.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import HubError

THREADS = 4
"""Requests that run at once."""

Tell = Callable[..., None]
"""Sends an event, given as keywords, to the main thread."""


def in_background(
    works: Sequence[Callable[[Tell], Any]], *, what: str, limit: float, on_event: Callable[[dict[str, Any]], None]
) -> list[Any]:
    """The results of some works, in their order, several of which run at once.

    Args:
        what: what is waited for, in words; a message names it.
        limit: the seconds without an event after which they are given up. An event adds its own key `wait`, in seconds.
        on_event: called with each event.

    Raises:
        HubError: there was no event for too long.
        Exception: what one of the works raises.
    """
    news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    numbers = iter(range(len(works)))  # one for all threads
    results, left = [None] * len(works), threading.Event()

    def tell(**event: Any) -> None:
        if left.is_set():  # nobody listens: a notebook, after Ctrl-C
            raise SystemExit
        news.put(event)

    def work() -> None:
        error = None
        try:
            for number in numbers:
                results[number] = works[number](tell)
        except (Exception, SystemExit) as raised:
            error = raised
        news.put({"ended": error})

    running = min(THREADS, len(works))
    for _ in range(running):
        threading.Thread(target=work, daemon=True).start()
    end = time.monotonic() + limit
    try:
        while running:
            event = news.get(timeout=max(0.0, end - time.monotonic()))
            end = max(end, time.monotonic() + limit + event.get("wait", 0))
            if error := event.get("ended"):
                raise error
            running -= "ended" in event
            on_event(event)
    except queue.Empty:
        raise HubError(f"{what}: nothing was heard for {limit:g} s; check the network, and run the same command again") from None
    finally:
        left.set()
    return results
