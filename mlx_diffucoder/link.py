"""Processes that compute one model together: how they meet, speak and end.

Rank 0 leads: it runs the command, reads its input and owns the terminal. The others follow its orders. MLX's engine carries the
tensors between them, and waits for ever for a peer that does not answer. So each follower has a connection to rank 0 as
well, for orders and signs of life. Where one is lost, or gives no sign, every process ends.

None of this is encrypted, nor is what MLX sends: use it on a link that only you can reach.
"""

import atexit
import json
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any, NoReturn

import mlx.core as mx

from . import __version__, ranks
from .errors import RankError
from .ranks import Launch

START = 30.0
"""Seconds in which every process must have started."""
BEAT, STALLED = 0.5, 10.0
"""Seconds between signs of life, and without one after which a peer has stalled."""
STEP = 120.0
"""Seconds that a follower may take for one order; then it gives no more signs of life."""
LARGEST = 2**16
"""Bytes of a greeting at most."""
FRAME = struct.Struct(">cII")
"""The head of what rank 0 sends: its kind, and the bytes of its JSON and of its arrays; at the end, the exit code."""
ORDER, ALIVE, END = b"o", b".", b"e"
OWN = 1.0
"""Seconds in which rank 0 finds an error itself that a follower reports, for all may have it."""
GREETING = struct.Struct(">I")

Facts = Mapping[str, str]
"""What must be equal on all ranks, by its name in an error."""


class Link:
    """The connections between rank 0 and its followers.

    Attributes:
        launch: who they are.
        group: MLX's, for tensors.
    """

    def __init__(self, launch: Launch, peers: dict[int, socket.socket]):
        self.launch, self._peers = launch, peers
        self._lock, self._orders = threading.Lock(), queue.SimpleQueue[tuple[Any, bytes]]()
        self._busy: float | None = None
        self._ended = False
        self.group = self._init()
        watches = [self._watch_followers] if self.leads else [self._listen, self._beat]
        self._watches = [threading.Thread(target=watch, daemon=True) for watch in watches]
        for watch in self._watches:
            watch.start()
        ranks.ends.append(self.end)
        if self.leads:
            atexit.register(ranks.end)
        else:
            ranks.tells.append(self.tell)

    @property
    def leads(self) -> bool:
        return self.launch.rank == 0

    @property
    def size(self) -> int:
        return len(self.launch.names)

    def _init(self) -> Any:
        wrong = "MLX does not connect the processes; check the ips in the hostfile, and the firewalls"
        # MLX waits for its peers for ever, and lets no other thread run: another process says so, and ends this one.
        words = ["sh", "-c", 'sleep "$0"; echo "$1" >&2; kill -9 "$2"', str(START), f"diffucode: {wrong}", str(os.getpid())]
        null, stderr = subprocess.DEVNULL, ranks.stderr if self.leads else subprocess.DEVNULL
        watch = subprocess.Popen(words, stdin=null, stdout=null, stderr=stderr, start_new_session=True)
        try:
            return mx.distributed.init(strict=True, backend=self.launch.backend)  # type: ignore[arg-type]
        except RuntimeError:
            raise RankError(wrong) from None
        finally:
            os.killpg(watch.pid, signal.SIGKILL)
            watch.wait()

    def send(self, order: Any, arrays: bytes = b"") -> None:
        """Send an order to every follower.

        Args:
            order: ready for JSON.
            arrays: the bytes of its arrays.
        """
        head = json.dumps(order, default=int).encode()
        with self._lock, suppress(OSError):  # a lost one is noticed by the thread that watches
            for peer in self._peers.values():
                peer.sendall(FRAME.pack(ORDER, len(head), len(arrays)) + head + arrays)

    def receive(self) -> tuple[Any, bytes]:
        """Wait for the next order. The process ends when rank 0 does."""
        self._busy = None
        order = self._orders.get()
        self._busy = time.monotonic()
        return order

    def tell(self, line: str) -> None:
        """Give rank 0 the line of an error to print, in a follower."""
        with self._lock, suppress(OSError):
            self._peers[0].sendall(f"\n{line}\n".encode())

    def end(self, code: int = 0) -> None:
        """Tell the followers to end, with an exit code. In a follower, wait until rank 0 tells."""
        if not self.leads:
            self._watches[0].join()  # it ends this process
        self._ended = True
        with suppress(OSError):
            for peer in self._peers.values():
                peer.settimeout(BEAT)
                peer.sendall(FRAME.pack(END, code, 0))

    def _watch_followers(self) -> None:
        seen = dict.fromkeys(self._peers, time.monotonic())
        while not self._ended:
            ready = select.select(list(self._peers.values()), [], [], BEAT)[0]
            for index, peer in self._peers.items():
                if peer in ready:
                    seen[index] = time.monotonic()
                    self._hear(self.launch.names[index], _received(peer))
            now = time.monotonic()
            if late := [self.launch.names[index] for index, at in seen.items() if now - at > STALLED]:
                verb = "does not answer" if len(late) == 1 else "do not answer"
                self._fail(f"{', '.join(late)} {verb}: stopped, or a step that takes too long")
            if self._lock.acquire(blocking=False):
                with suppress(OSError):
                    for peer in self._peers.values():
                        peer.sendall(FRAME.pack(ALIVE, 0, 0))
                self._lock.release()
            time.sleep(BEAT / 10)

    def _hear(self, name: str, data: bytes) -> None:
        """Take what a follower sent: signs of life, the line of an error, or nothing where its connection has ended."""
        line = data.partition(b"\n")[2].decode(errors="replace").strip()
        if line:
            time.sleep(OWN)
        if not self._ended and not data:
            self._fail(f"{name} was lost: its process has ended, or the link to it is down")
        if not self._ended and line:
            self._fail(f"{name}: {line}")

    def _listen(self) -> None:
        """Take the orders of rank 0, in a thread of a follower."""
        peer, leader = self._peers[0], self.launch.names[0]
        peer.settimeout(1.5 * STALLED)  # rank 0 is the first to notice another
        try:
            while True:
                kind, head, arrays = FRAME.unpack(_exactly(peer, FRAME.size))
                if kind == END:
                    os._exit(head)
                if kind == ORDER:
                    self._orders.put((json.loads(_exactly(peer, head)), _exactly(peer, arrays)))
        except TimeoutError:
            self._fail(f"{leader} does not answer")
        except OSError:
            self._fail(f"{leader} was lost: its process has ended, or the link to it is down")

    def _beat(self) -> None:
        """Give signs of life, in a thread of a follower, unless an order takes too long."""
        while True:
            busy = self._busy
            if busy is None or time.monotonic() - busy < STEP:
                with self._lock, suppress(OSError):
                    self._peers[0].sendall(ALIVE)
            time.sleep(BEAT)

    def _fail(self, line: str) -> NoReturn:
        """End this process, and the followers if it leads, with one line on stderr: that of rank 0, or of rank 1 for rank 0."""
        if self.leads:
            self.end(1)
        if self.launch.rank < 2:
            _say(line)
        os._exit(1)


def versions() -> Facts:
    """Those of this program and of MLX."""
    return {"the version of mlx_diffucoder": __version__, "the version of MLX": version("mlx")}


def lead(launch: Launch, facts: Facts) -> Link:
    """Wait for all followers, and compare what must be equal.

    Raises:
        RankError: one did not start, has another version or model, or has an error of its own.
    """
    peers: dict[int, socket.socket] = {}
    greetings: dict[int, dict[str, Any]] = {}
    until = time.monotonic() + START
    try:
        with socket.create_server(launch.address, backlog=len(launch.names)) as server:
            while len(peers) < len(launch.names) - 1:
                server.settimeout(max(0.01, until - time.monotonic()))
                with suppress(ValueError, LookupError):  # not one of ours
                    peer, _ = server.accept()
                    peer.settimeout(5)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    greeting = json.loads(_exactly(peer, min(LARGEST, *GREETING.unpack(_exactly(peer, GREETING.size)))))
                    peers[int(greeting["rank"])], greetings[int(greeting["rank"])] = peer, greeting
    except TimeoutError:
        absent = [name for index, name in enumerate(launch.names) if index and index not in peers]
        raise RankError(f"{', '.join(absent)} did not start within {START:.0f} s; can it be reached from here?") from None
    except OSError as error:
        raise RankError(f"{launch.names[0]}: {launch.address[1]} cannot be listened on ({error.strerror})") from None
    for index, greeting in sorted(greetings.items()):
        _check(launch.names[index], greeting, facts)
    for peer in peers.values():
        peer.settimeout(None)
        peer.sendall(ALIVE)
    return Link(launch, peers)


def _check(name: str, greeting: Mapping[str, Any], facts: Facts) -> None:
    if greeting.get("error"):
        raise RankError(f"{name}: {greeting['error']}")
    theirs = greeting.get("facts", {})
    for what, own in facts.items():
        if theirs.get(what) != own:
            raise RankError(f"{name}: {what} is {theirs.get(what)}, and {own} at rank 0; make them equal on all machines")


def join(launch: Launch, facts: Facts | None, error: str = "") -> Link:
    """Greet rank 0, in a follower.

    Args:
        error: why this process cannot work; rank 0 prints it.

    Raises:
        RankError: rank 0 did not start, or does not want to begin.
    """
    # Where this process cannot work, rank 0 may have ended for the same reason.
    until = time.monotonic() + (START / 3 if error else START)
    while True:
        try:
            peer = socket.create_connection(launch.address, timeout=START)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            greeting = json.dumps({"rank": launch.rank, "facts": facts and dict(facts), "error": error}).encode()
            peer.sendall(GREETING.pack(len(greeting)) + greeting)
            break
        except OSError:
            if time.monotonic() > until:
                line = f"{launch.names[0]} did not start within {START:.0f} s; can it be reached from here?"
                if launch.rank == 1 and not error:  # rank 0 may have ended by the same error, which it printed
                    _say(line)
                raise RankError(line) from None
            time.sleep(0.1)
    peer.settimeout(2 * START)
    try:
        _exactly(peer, 1)
    except OSError:
        raise RankError(f"{launch.names[0]} does not begin") from None
    return Link(launch, {0: peer})


def _exactly(peer: socket.socket, count: int) -> bytes:
    """So many bytes. Raises `OSError` where the connection ends first."""
    data = bytearray()
    while len(data) < count:
        if not (more := peer.recv(min(count - len(data), 2**20))):
            raise ConnectionError("closed")
        data += more
    return bytes(data)


def _received(peer: socket.socket) -> bytes:
    """The bytes that are there; none where the connection has ended."""
    try:
        return peer.recv(4096)
    except OSError:
        return b""


def _say(line: str) -> None:
    """Write the line of a failure, in whatever thread."""
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")  # the cursor, which a view of the canvas hides
    with suppress(OSError):
        os.write(ranks.stderr, f"diffucode: {line}\n".encode())
