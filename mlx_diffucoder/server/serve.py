"""The process of the server: its socket, its signals and its end."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from ..errors import ServerError
from .engine import Engine
from .guard import new_id
from .problems import Problem

GRACE = 4.0
"""Seconds that running requests have after SIGTERM before they end with their text so far."""
STEP = 0.2
"""Seconds more for a step that runs; if it takes longer, its requests end with their text before it."""
CLOSING = 1.5
"""Seconds more in which the last bytes are sent."""
SILENT = 20.0
"""Seconds in which a new connection must ask for something."""
IDLE = 75.0
"""Seconds in which a connection must ask for something again. Clients close theirs after 5 s (httpx, Node) or when they are
told to: a server that closes it just as the next request is sent loses that request."""
PROMISED = 60
"""Seconds that a client is told that it may keep a connection."""


class Protocol(H11Protocol):
    """HTTP, but a connection on which no request begins is closed, and what is no request is refused like one that is wrong."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._silence = self.loop.call_later(SILENT, self._end_silence, SILENT, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._silence.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._silence.cancel()
        self._silence = self.loop.call_later(IDLE, self._end_silence, IDLE, self.cycle)

    def _end_silence(self, seconds: float, last: RequestResponseCycle | None) -> None:
        """Close the connection unless a request has followed the last."""
        if self.cycle is last and not self.transport.is_closing():
            self._refuse(408, f"no request arrived within {seconds:.0f} s")

    def eof_received(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:  # the body is shorter than its length
            self.send_400_response("the body ended too early")

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # it must not answer as well
            self.cycle.message_event.set()
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        """Answer what has come so far, if something has, and close the connection."""
        begun = self.conn.their_state is not h11.IDLE or bool(self.conn.trailing_data[0])
        if begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = Problem(status, message, code="invalid_http").response(self.cycle.scope["path"] if self.cycle else "/")
            headers = [*answer.raw_headers, (b"x-request-id", new_id().encode()), (b"connection", b"close")]
            head = h11.Response(status_code=status, reason=HTTPStatus(status).phrase.encode(), headers=headers)
            parts = head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: this program has its own exit codes."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `ServerError` where it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(256)
    except OSError as error:
        what = "the port is in use; choose another with --port" if error.errno == 98 or error.errno == 48 else error.strerror
        raise ServerError(f"{host}:{port}: cannot be listened on ({what})") from None
    return made


def serve(app: ASGIApp, engine: Engine, on: socket.socket, ready: Callable[[], None]) -> int:
    """Answer requests until a signal arrives or the model cannot be loaded.

    Args:
        on: the socket.
        ready: called once requests are answered.

    Returns:
        The signal.

    Raises:
        Exception: what kept the engine from loading the model.
    """
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        return asyncio.run(_serve(app, engine, on, ready))
    except BaseException:
        for one, handler in before.items():
            signal.signal(one, handler)
        raise


def configured(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        headers=[("keep-alive", f"timeout={PROMISED}")],
        timeout_keep_alive=int(IDLE),
        timeout_graceful_shutdown=int(GRACE + CLOSING),
    )


async def _serve(app: ASGIApp, engine: Engine, on: socket.socket, ready: Callable[[], None]) -> int:
    server, signals, loop = _Server(configured(app)), list[int](), asyncio.get_running_loop()

    def stop(number: int) -> None:
        signals.append(number)
        seconds = GRACE if len(signals) == 1 else 0
        engine.stop(seconds)
        loop.call_later(seconds + STEP, engine.end)
        server.should_exit = True
        if len(signals) > 1:
            loop.call_later(CLOSING, lambda: setattr(server, "force_exit", True))

    for one in (signal.SIGINT, signal.SIGTERM):  # not the loop's own handlers, which end before the process does
        signal.signal(one, lambda number, frame: None if loop.is_closed() else loop.call_soon_threadsafe(stop, number))
    task = asyncio.create_task(server.serve(sockets=[on]))
    while not (server.started or task.done()):
        await asyncio.sleep(0.01)
    engine.start()  # now, so that requests are answered while the model is loaded
    ready()
    while not task.done():
        await asyncio.wait([task], timeout=0.2)
        if engine.state == "failed":
            server.should_exit = server.force_exit = True
    await task
    engine.stop(0)
    if not await asyncio.to_thread(engine.join, 1.0) and signals:
        os._exit(128 + signals[0])  # Python cannot end while MLX computes
    if engine.error is not None:
        raise engine.error
    return signals[0] if signals else 0
