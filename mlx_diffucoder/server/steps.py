"""The work in progress: which canvases take the next step, and what becomes of it. Only the engine's thread comes here."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..decoding.batch import Batch
from ..decoding.extent import bytes_needed
from ..decoding.result import TILE, Step
from ..decoding.rules import rule_for
from ..decoding.windows import window_for
from ..errors import CheckpointError, DiffucoderError, PromptError
from ..formatting import format_bytes
from ..generation import decode
from ..memory import bytes_of, working_set
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .kept import LARGEST, SHARE, KeptTexts
from .work import Lane, Lanes, Progress, Work

ROWS = 128
"""Rows that the answers of one step share, about; holes come in addition."""
RECENT = 0.1
"""The weight of the last step in the mean time of a position."""
_log = logging.getLogger("mlx_diffucoder")

Listener = Callable[[Progress | Exception], None]


class Job:
    """Work that was handed in, with everybody who waits for it.

    Args:
        work: what to do.

    Attributes:
        since: when it was handed in.
        lanes: the work in progress.
        first: its first canvas, while it waits for memory.
        canvas: the id of its canvas in the batch, or the steps of one that shares no forwards.
        needs: bytes, next to the weights.
    """

    def __init__(self, work: Work):
        self.work, self.since = work, time.monotonic()
        self.lanes: Lanes | None = None
        self.first: Lane | None = None
        self.canvas: int | Iterator[tuple[Step, bool]] | None = None
        self.needs = 0
        self._lock, self._listeners, self._over = threading.Lock(), list[Listener](), False

    def join(self, listener: Listener) -> bool:
        """Wait for it, from any thread. Returns False if it is over.

        Args:
            listener: called after each step, in the engine's thread, with the progress, or with the error that ended it.
        """
        with self._lock:
            if not self._over:
                self._listeners.append(listener)
            return not self._over

    def leave(self, listener: Listener) -> None:
        """Wait no longer, from any thread."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def is_late(self) -> bool:
        """Whether it has no more time."""
        limit = self.work.deadline
        return limit is not None and time.monotonic() - self.since >= limit

    def is_abandoned(self) -> bool:
        """Whether nobody waits for it any more. Nobody can join it after that."""
        with self._lock:
            self._over = self._over or not self._listeners
            return self._over

    def tell(self, message: Progress | Exception, *, last: bool = False) -> None:
        """Tell everybody who waits. Nobody can join after the last message, nor is told another one."""
        with self._lock:
            listeners = [] if self._over else list(self._listeners)
            self._over = self._over or last
        for listener in listeners:
            listener(message)


@dataclass
class Counts:
    """What `/metrics` reports."""

    cancelled: int = 0
    finished: int = 0
    forwards: int = 0
    positions: int = 0
    tiles: int = 0
    useful_tokens: int = 0


class Steps:
    """The work in progress of one model.

    Args:
        model, tokenizer: as from `load`.
        counts: is kept up to date.
    """

    def __init__(self, model: DiffusionModel, tokenizer: Tokenizer, counts: Counts):
        self.model, self.tokenizer, self._counts = model, tokenizer, counts
        self.running: list[Job] = []
        self._batch, self._turn, self._pace = Batch(model), 0, 0.0
        self._kept = KeptTexts(min(LARGEST, int(SHARE * working_set())))

    def begin(self, job: Job) -> bool:
        """Begin work. Returns whether there is memory for it now.

        Raises:
            PromptError: there never is.
            DiffucoderError: the request cannot be fulfilled.
        """
        if job.lanes is None:
            job.lanes = job.work.lanes(self.model, self.tokenizer, self._pace, self._kept)
            job.first = next(job.lanes)
        if (lane := job.first) is None:
            raise ValueError("work begins with a canvas")
        job.needs, free = self._bytes_of(lane), working_set() - bytes_of(self.model.parameters())
        if job.needs > free:
            raise PromptError(
                f"{lane.canvas.tokens.size} tokens of prompt and answer take {format_bytes(job.needs)}, and"
                f" {format_bytes(max(0, free))} are left next to the weights; ask for fewer",
                field="max_tokens",
            )
        if job.needs > free - sum(one.needs for one in self.running):
            return False
        self._put(job, lane)
        self.running.append(job)
        job.first = None
        return True

    def advance(self) -> None:
        """Take one step on the canvases whose turn it is."""
        taken = self._turns()
        start, before = time.perf_counter(), sum(job.work.progress.positions for job in taken)
        together = {job.canvas: job for job in taken if isinstance(job.canvas, int)}
        alone = [(job, job.canvas) for job in taken if not isinstance(job.canvas, int) and job.canvas is not None]
        try:
            steps = self._batch.step(together) if together else {}
        except Exception as error:
            self._fail_together(error)
            return
        for id, step in steps.items():
            self._give(together[id], step, id not in self._batch)
        for job, own in alone:
            try:
                self._give(job, *next(own))
            except Exception as error:
                self.fail(job, error)
        self._count(sum(job.work.progress.positions for job in taken) - before, time.perf_counter() - start)

    def end(self, job: Job) -> None:
        """End work before its time, with its text so far."""
        progress = job.work.progress
        job.work.progress = replace(progress, text=progress.settled, reason="time")
        self._finish(job)

    def fail(self, job: Job, error: Exception) -> None:
        """End work with an error."""
        self.drop(job)
        if not isinstance(error, DiffucoderError):
            _log.error("a request failed:\n%s", "".join(traceback.format_exception(error)))
        job.tell(error, last=True)

    def drop(self, job: Job) -> None:
        """Give the rows and the memory of work back."""
        self.running = [one for one in self.running if one is not job]
        if isinstance(job.canvas, int):
            self._batch.cancel(job.canvas)
        job.canvas = job.lanes = None

    def _finish(self, job: Job) -> None:
        self.drop(job)
        self._counts.finished += 1
        self._counts.useful_tokens += job.work.progress.tokens
        job.tell(job.work.progress, last=True)

    def _put(self, job: Job, lane: Lane) -> None:
        """Put a canvas into the batch; one that shares no forwards stays by itself."""
        if lane.config.reference:
            job.canvas = _with_last(decode(self.model, [lane.canvas], lane.config, lane.forbidden, None, lane.stop))
            return
        canvas, config, forbidden, stop, copy, window = lane
        window = window or window_for(config)
        window.check(self.model)
        job.canvas = self._batch.add(canvas, rule_for(config), window, config, forbidden=forbidden, stop=stop, copy=copy)

    def _turns(self) -> list[Job]:
        """Every hole, and as many answers as share `ROWS`, in turns."""
        holes = [job for job in self.running if job.work.urgent]
        answers = [job for job in self.running if not job.work.urgent]
        count = min(len(answers), ROWS // TILE)
        start = self._turn % max(1, len(answers))
        self._turn += count
        return holes + (answers + answers)[start : start + count]

    def _give(self, job: Job, step: Step, last: bool) -> None:
        """Give a step to the work whose canvas it is of, and begin its next canvas."""
        try:
            lane = job.lanes.send((step, last)) if job.lanes else None
            if lane is not None:
                self._put(job, lane)
        except StopIteration:
            self._finish(job)
        except Exception as error:
            self.fail(job, error)
        else:
            job.tell(job.work.progress)

    def _fail_together(self, error: Exception) -> None:
        """A forward failed, and with it the batch: also of those whose turn it was not. What comes next has a new one."""
        lost = [job for job in self.running if isinstance(job.canvas, int)]
        self.running = [job for job in self.running if job not in lost]
        self._batch = Batch(self.model)
        for job in lost:
            job.canvas = job.lanes = None
        if isinstance(error, CheckpointError) and self.model.widen is not None:
            # As `decoding.overflow.in_range`: once, for good, and all of them start again.
            self.model.widen(self.model)
            self.model.widen = None
            lost = [job for job in lost if not self._begun_again(job)]
        for job in lost:
            self.fail(job, error)

    def _begun_again(self, job: Job) -> bool:
        try:
            return self.begin(job)
        except DiffucoderError:
            return False

    def _count(self, positions: int, seconds: float) -> None:
        self._counts.forwards += 1
        self._counts.positions += max(0, positions)
        self._counts.tiles += -(-positions // TILE)
        if positions > 0:
            pace = seconds / positions
            self._pace = (1 - RECENT) * (self._pace or pace) + RECENT * pace

    def _bytes_of(self, lane: Lane) -> int:
        """About how many bytes a canvas needs next to the weights: for its forwards and its K/V."""
        config, size = self.model.config, lane.canvas.tokens.size
        masks = int((lane.canvas.tokens == lane.canvas.mask_id).sum())
        kv = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size  # in float32
        window = window_for(lane.config)
        return kv + bytes_needed(self.model, 1, size - masks, masks, window, plain=lane.config.reference)


def _with_last(steps: Iterator[tuple[Step, ...]]) -> Iterator[tuple[Step, bool]]:
    """Each step of one canvas, and whether it is the last."""
    (step,) = next(steps)
    for (following,) in steps:
        yield step, False
        step = following
    yield step, True
