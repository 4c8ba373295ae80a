"""The engine: one thread that owns MLX and does the work of all requests.

Requests join and leave between two steps. Each keeps its own rule, seed and settings, and in float32 its text is that of the
same request alone. Holes take every step; long answers take turns within a budget of rows, so that a hole is filled while
they run. Equal work without a draw is done once.
"""

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx

from ..infilling.middle import middle_tokens
from ..memory import bytes_of
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .steps import Counts, Job, Listener, Steps
from .work import Work

RESERVED = 4
"""Holes that are filled beyond `parallel`, so that long answers keep none waiting."""


class Busy(Exception):
    """No more work is taken now.

    Attributes:
        seconds: when to ask again.
        stopping: whether the server ends.
    """

    def __init__(self, message: str, seconds: int, *, stopping: bool = False):
        super().__init__(message)
        self.seconds, self.stopping = seconds, stopping


class About(NamedTuple):
    """Facts of the model, which stay known while it is not in memory.

    Attributes:
        family: its name.
        context: tokens that a prompt and its answer may have together.
        width: of the hidden states.
        parameters: their number.
        bytes: of the weights.
        bits: of a weight, as they are stored.
        infills: whether it can fill holes.
        template: of its chats; None if it has none.
    """

    family: str
    context: int
    width: int
    parameters: int
    bytes: int
    bits: int
    infills: bool
    template: str | None


def _stopping() -> Busy:
    return Busy("the server is stopping", 1, stopping=True)


class Engine:
    """Does the work of requests, in a thread of its own.

    Args:
        open_model: loads the model; it is called in the engine's thread.
        parallel: the most pieces of work at once.
        queue: the most that wait.
        idle: seconds without work after which the model's memory is given back; None for never.

    Attributes:
        state: `loading`, `ready`, `unloaded`, `failed` or `stopped`.
        error: why it failed.
        counts: what was done so far.
        about: the facts of the model, once it has been loaded.
    """

    def __init__(
        self,
        open_model: Callable[[], tuple[DiffusionModel, Tokenizer]],
        *,
        parallel: int = 8,
        queue: int = 64,
        idle: float | None = None,
    ):
        self._open, self._parallel, self._queue, self._idle = open_model, parallel, queue, idle
        self._changed = threading.Condition()  # guards the lists of jobs and `_stop_at`
        self._waiting: list[Job] = []
        self._steps: Steps | None = None
        self._stop_at: float | None = None
        self.state, self.counts = "loading", Counts()
        self.error: Exception | None = None
        self.about: About | None = None
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which loads the model."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Take no more work. What runs may go on for `seconds`, and then ends with its text so far. Returns at once."""
        with self._changed:
            self._stop_at = min(self._stop_at or float("inf"), time.monotonic() + seconds)
            self._changed.notify()

    def end(self) -> None:
        """End all work now, also while a step runs: what runs with its text so far, what waits with an error."""
        with self._changed:
            waiting, running = list(self._waiting), list(self._steps.running if self._steps else ())
        for job in running:
            job.tell(replace(job.work.progress, text=job.work.progress.settled, reason="time"), last=True)
        for job in waiting:
            job.tell(_stopping(), last=True)

    def join(self, seconds: float) -> bool:
        """Wait until the thread has ended, for at most `seconds`. Returns whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def running(self) -> int:
        """Pieces of work that take steps."""
        return len(self._steps.running) if self._steps else 0

    @property
    def waiting(self) -> int:
        """Pieces of work that have not begun."""
        return len(self._waiting)

    def submit(self, work: Work, listener: Listener) -> Callable[[], None]:
        """Hand in work.

        Args:
            listener: as in `Job`.

        Returns:
            A function that cancels it for this listener, from any thread.

        Raises:
            Busy: too much work waits, or the server stops.
        """
        with self._changed:
            if self._stop_at is not None or self.state in ("failed", "stopped"):
                raise _stopping()
            known = [*self._waiting, *(self._steps.running if self._steps else ())]
            same = (one for one in known if work.key is not None and one.work.key == work.key)
            job = next((one for one in same if one.join(listener)), None)
            if job is None:
                free = max(0, self._parallel - self.running)  # those that the thread has not begun yet do not queue
                if len(self._waiting) >= self._queue + free:
                    message = f"the queue is full (requests that wait: {len(self._waiting)}); try again later"
                    raise Busy(message, 1 + len(self._waiting) // self._parallel)
                job = Job(work)
                job.join(listener)
                self._waiting.append(job)
            self._changed.notify()
        return lambda: self._leave(job, listener)

    def _leave(self, job: Job, listener: Listener) -> None:
        job.leave(listener)
        with self._changed:
            self._changed.notify()

    def _main(self) -> None:
        """The thread."""
        try:
            self._load()
            while self._goes_on():
                self._admit()
                if self._steps and self._steps.running:
                    self._steps.advance()
            self.state = "stopped"
        except Exception as error:
            self.error, self.state = error, "failed"
        with self._changed:
            left = [*self._waiting, *(self._steps.running if self._steps else ())]
            self._waiting, self._steps = [], None
        for job in left:
            job.tell(self.error or _stopping(), last=True)
        mx.synchronize()  # the interpreter must not end before a forward that is still running

    def _load(self) -> None:
        self.state = "loading"
        model, tokenizer = self._open()
        self._steps, config, size = Steps(model, tokenizer, self.counts), model.config, bytes_of(model.parameters())
        self.about = About(
            family=model.family.name,
            context=config.max_position_embeddings,
            width=config.hidden_size,
            parameters=config.parameters,
            bytes=size,
            bits=round(8 * size / config.parameters),
            infills="infill" not in model.family.cannot or bool(middle_tokens(model, tokenizer)),
            template=tokenizer.chat_template,
        )
        self.state = "ready"

    def _unload(self) -> None:
        self._steps, self.state = None, "unloaded"
        gc.collect()
        mx.clear_cache()

    def _goes_on(self) -> bool:
        """Wait for work. Let go of what nobody waits for, and of what is out of time. Returns False at the end."""
        with self._changed:
            while not (self._waiting or self.running or self._stop_at is not None):
                idle = self._idle if self.state == "ready" else None
                if not self._changed.wait(idle):
                    self._unload()
            stop_at, refused = self._stop_at, []
            if stop_at is not None:
                refused, self._waiting = self._waiting, []
            dead = [job for job in self._waiting if job.is_abandoned()]
            late = [job for job in self._waiting if job.is_late() and job not in dead]
            self._waiting = [job for job in self._waiting if job not in [*dead, *late]]
        for job in refused:
            job.tell(_stopping(), last=True)
        for job in late:
            job.tell(replace(job.work.progress, reason="time"), last=True)
        if self.state == "unloaded" and self._waiting:
            self._load()
        self.counts.cancelled += len(dead)
        for job in list(self._steps.running) if self._steps else ():
            self._look_after(job, stop_at)
        return stop_at is None or self.running > 0

    def _look_after(self, job: Job, stop_at: float | None) -> None:
        """Stop work that nobody waits for, or that has no more time."""
        if self._steps is None:
            return
        if job.is_abandoned():
            self._steps.drop(job)
            self.counts.cancelled += 1
        elif job.is_late() or (stop_at is not None and time.monotonic() >= stop_at):
            self._steps.end(job)

    def _admit(self) -> None:
        """Begin work: holes first, then the oldest."""
        with self._changed:
            waiting = sorted(self._waiting, key=lambda job: not job.work.urgent)
        for job in waiting:
            if self._steps is None or self.running >= self._parallel + (RESERVED if job.work.urgent else 0):
                continue
            try:
                begun = self._steps.begin(job)
            except Exception as error:
                begun = True
                self._steps.fail(job, error)
            if begun:
                with self._changed:
                    self._waiting.remove(job)
