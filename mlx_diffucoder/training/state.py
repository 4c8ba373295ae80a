"""The folder of a run: its checkpoints, each whole or not there, and the log of its curve.

    OUT/log.jsonl           one line a report
    OUT/step-00000200/      a checkpoint: what is trained, optimizer.safetensors, training.json
    OUT/...                 at the end, the files of what was trained

A checkpoint is written beside under a hidden name and renamed, and only then the one before is removed: a
run that was killed, or met a full disk, leaves the previous one. What is drawn follows from seed and step, so
that no generator's state needs to be kept.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import CheckpointError, TrainError
from ..files import folder_atomically, read_json, write_atomically

STATE, OPTIMIZER, LOG = "training.json", "optimizer.safetensors", "log.jsonl"
ROUND = "round.safetensors"  # answers that a method has begun to learn from
WriteWeights = Callable[[Path, nn.Module], None]
"""Writes what is trained into a folder, as a folder that loads."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps done.
        best, best_step: the lowest loss of an evaluation, and when.
        worse: evaluations since.
        running, lowest: the loss of the steps, smoothed; and its lowest.
        seconds: spent on training.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    running: float | None = None
    lowest: float | None = None
    seconds: float = 0.0


class RunFolder:
    """Where a run is kept; held by this process until it ends.

    Args:
        path: OUT; made where it is not there.
        identity: what a run that goes on must have in common with this one, as JSON can hold it.
        write: writes the weights.
        resume: whether a run that is there is gone on with.

    Raises:
        TrainError: OUT cannot be made, is no run's folder, holds a run that is not to be gone on with, or one
            that is running.
    """

    def __init__(self, path: Path, identity: dict[str, Any], write: WriteWeights, *, resume: bool = False):
        self.path, self._identity, self._write = path, identity, write
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainError(f"{path}: another run is writing it; wait for that, or name another folder") from None
        except OSError as error:
            raise TrainError(f"{path}: cannot be written ({_reason(error)})") from None
        self._begin(resume)

    def _begin(self, resume: bool) -> None:
        for left in self.path.glob(".step-*.unfinished"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        if self.newest() is not None:
            if not resume:
                raise TrainError(f"{self.path}: holds a run already; --resume goes on with it, or name another folder")
        elif others := [one.name for one in self.path.iterdir() if one.name not in (".lock", LOG)]:
            raise TrainError(f"{self.path}: holds {others[0]} and no run; name another folder")
        else:
            (self.path / LOG).unlink(missing_ok=True)  # of a run that was stopped before its first checkpoint

    def close(self) -> None:
        """Let another run have the folder."""
        self._lock.close()

    def newest(self) -> Path | None:
        """The last checkpoint, where there is one."""
        return max(self.path.glob("step-[0-9]*"), default=None)

    def save(self, model: nn.Module, optimizer: optim.Optimizer, progress: Progress) -> None:
        """Write a checkpoint, and then remove those that are neither it nor the best.

        Raises:
            TrainError: it cannot be written; those before are as they were.
        """
        done = self.path / f"step-{progress.step:08d}"
        if done.exists():
            self._write_state(done, progress)
            return
        try:
            with folder_atomically(done, flush=True) as unfinished:
                self._write(unfinished, model)
                mx.save_safetensors(str(unfinished / OPTIMIZER), dict(tree_flatten(optimizer.state)))  # type: ignore[arg-type]
                self._write_state(unfinished, progress)
        except (OSError, RuntimeError) as error:  # MLX raises RuntimeError where it cannot write
            kept = self.newest()
            where = f"{kept} is whole, --resume goes on from it" if kept else "there is none before it"
            raise TrainError(f"{done}: the checkpoint cannot be written ({_reason(error)}); {where}") from None
        for old in self.path.glob("step-[0-9]*"):
            if old not in (done, self._best(progress)):
                shutil.rmtree(old, ignore_errors=True)

    def _write_state(self, folder: Path, progress: Progress) -> None:
        text = json.dumps({"progress": asdict(progress), "run": self._identity}, indent=2)
        write_atomically(folder / STATE, text + "\n")

    def _best(self, progress: Progress) -> Path | None:
        return None if progress.best_step is None else self.path / f"step-{progress.best_step:08d}"

    def restore(self, read_weights: Callable[[Path], None], optimizer: optim.Optimizer) -> Progress:
        """The progress of the last checkpoint, its weights and the optimizer's state read; nothing where there is none.

        Raises:
            TrainError: it is another run's; the message names what differs.
            CheckpointError: it is damaged.
        """
        folder = self.newest()
        if folder is None:
            return Progress()
        state = read_json(folder / STATE)
        if state.get("run") != json.loads(json.dumps(self._identity)):
            raise TrainError(f"{folder}: is of another run: {_difference(state.get('run') or {}, self._identity)}")
        read_weights(folder)
        try:
            kept: Any = mx.load(str(folder / OPTIMIZER))
        except RuntimeError as error:
            raise CheckpointError(f"{folder / OPTIMIZER}: cannot be read ({_reason(error)})") from None
        optimizer.state = tree_unflatten(list(kept.items()))
        progress = Progress(**state["progress"])
        self._cut_log(progress.step)
        return progress

    def publish(self, progress: Progress) -> None:
        """Put the files of the best checkpoint (the last, where nothing was evaluated) into OUT itself."""
        folder = self._best(progress) or self.newest()
        for file in folder.iterdir() if folder else ():
            if file.name not in (STATE, OPTIMIZER, ROUND):
                write_atomically(self.path / file.name, partial(_link, file))

    def log(self, line: dict[str, Any]) -> None:
        with (self.path / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _cut_log(self, step: int) -> None:
        """Drop what an interrupted run logged after its last checkpoint."""
        file = self.path / LOG
        if file.exists():
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut off when the process was killed
        return float("inf")


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    name = next(name for name in sorted({*old, *new}) if old.get(name) != new.get(name))
    return f"{name} was {old.get(name)!r} and is {new.get(name)!r} now"


def _link(file: Path, to: Path) -> None:
    to.unlink()
    try:
        os.link(file, to)
    except OSError:  # a disk without hard links
        shutil.copyfile(file, to)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
