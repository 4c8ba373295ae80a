"""The progress of work in the engine's thread, as asyncio sees it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from .engine import Engine
from .problems import problem_of
from .work import Progress, Work

T = TypeVar("T")


class Feed:
    """The progress of one piece of work: `async for progress in feed`, of which the last has a `reason`.

    A reader that is slower than the engine sees fewer, later ones. Leaving the loop does not cancel the work; `cancel` does.

    Raises:
        Busy: the engine takes no more work.
    """

    def __init__(self, engine: Engine, work: Work):
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._latest: Progress | Exception | None = None
        self.cancel = engine.submit(work, self._tell)

    def _tell(self, message: Progress | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._take, message)

    def _take(self, message: Progress | Exception) -> None:
        self._latest = message
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Raises `Problem` for an error of the work's."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if isinstance(self._latest, Exception):
                raise problem_of(self._latest)
            if self._latest is not None:
                yield self._latest
                if self._latest.reason is not None:
                    return

    async def last(self) -> Progress:
        """The progress at the end. Raises `Problem` for an error of the work's."""
        *_, last = [progress async for progress in self]
        return last


async def done(request: Request, engine: Engine, works: Sequence[Work]) -> list[Progress]:
    """The results of some work. It is cancelled when the client hangs up.

    Raises:
        Problem: some of it failed, or the engine takes no more.
        ClientDisconnect: the client has gone.
    """
    feeds = start(engine, works)

    async def results() -> list[Progress]:  # a task, which takes note of its being cancelled; a bare gather logs it
        return await asyncio.gather(*(feed.last() for feed in feeds))

    try:
        return await unless_gone(request, results())
    finally:
        for feed in feeds:
            feed.cancel()


def start(engine: Engine, works: Sequence[Work]) -> list[Feed]:
    """Hand in some work, all of it or none. Raises `Problem`."""
    feeds: list[Feed] = []
    try:
        for work in works:
            feeds.append(Feed(engine, work))
    except Exception as error:
        for feed in feeds:
            feed.cancel()
        raise problem_of(error) from None
    return feeds


async def unless_gone(request: Request, result: Awaitable[T]) -> T:
    """Wait for a result, or until the client hangs up.

    Raises:
        ClientDisconnect: it did.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task: asyncio.Future[Any] = asyncio.ensure_future(result)
    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()  # type: ignore[no-any-return]
    finally:
        watch.cancel()
        task.cancel()


async def merged(feeds: Sequence[Feed]) -> AsyncIterator[tuple[int, Progress]]:
    """The progress of several pieces of work as it comes, each with its number."""
    queue: asyncio.Queue[tuple[int, Progress] | Exception | None] = asyncio.Queue()

    async def follow(number: int, feed: Feed) -> None:
        try:
            async for progress in feed:
                queue.put_nowait((number, progress))
        except Exception as error:
            queue.put_nowait(error)
        queue.put_nowait(None)

    tasks = [asyncio.create_task(follow(number, feed)) for number, feed in enumerate(feeds)]
    try:
        left = len(tasks)
        while left:
            message = await queue.get()
            if isinstance(message, Exception):
                raise message
            if message is None:
                left -= 1
            else:
                yield message
    finally:
        for task in tasks:
            task.cancel()
