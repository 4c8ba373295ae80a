"""Being asked to end: SIGTERM is taken as Ctrl-C is, so what is finished is kept and the terminal is left as it was."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """SIGTERM came. What is stopped by Ctrl-C is stopped by it, and what goes on after Ctrl-C, a chat, ends."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated`, unless whoever started this program had it ignored."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def code_of(stop: BaseException) -> int:
    """The exit code, as shells have it: 130 where Ctrl-C ended the program, 143 where SIGTERM did."""
    cause: BaseException | None = stop
    while cause is not None:  # the parser makes an error of its own of it
        if isinstance(cause, Terminated):
            return 128 + signal.SIGTERM
        cause = cause.__context__
    return 128 + signal.SIGINT
