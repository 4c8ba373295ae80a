"""The folder of a run: complete checkpoints and the log.

    OUT/log.jsonl           one line per report
    OUT/step-00000200/      a checkpoint: trained weights, optimizer.safetensors, training.json
    OUT/...                 at the end, the files of the trained model or adapter

A checkpoint is written under a hidden name and renamed. Only then is the previous one removed, so a run that
is killed or meets a full disk leaves that one intact. All randomness follows from seed and step, so no
generator state is stored.
"""

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
from ..file_kinds import check_regular, read_bytes
from ..files import folder_atomically, open_locked, read_json, temporary_names, write_atomically

STATE, OPTIMIZER, LOG = "training.json", "optimizer.safetensors", "log.jsonl"
ANSWERS = "answers.jsonl"  # what a run learns from, where the model writes it itself
ROUND = "round.safetensors"  # the round that a method is in the middle of
WriteWeights = Callable[[Path, nn.Module], None]
"""Writes the trained weights into a folder that can be loaded."""


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        step: optimizer steps done.
        best, best_step: the lowest evaluation loss, and its step.
        worse: evaluations since then.
        running, lowest: the smoothed training loss, and its minimum.
        seconds: seconds of training.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    running: float | None = None
    lowest: float | None = None
    seconds: float = 0.0


class RunFolder:
    """The folder of a run, locked by this process until it closes.

    Args:
        path: OUT; created if it does not exist.
        identity: what a resumed run must share with this one, JSON-ready.
        write: writes the weights.
        resume: continue the run in the folder.

    Raises:
        TrainError: OUT cannot be created, is not the folder of a run, holds a run and `resume` is not set, or
            holds one that is running.
    """

    def __init__(self, path: Path, identity: dict[str, Any], write: WriteWeights, *, resume: bool = False):
        self.path, self._identity, self._write = path, identity, write
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._began = (path / ".lock").exists()  # a run that stopped before its first checkpoint left it, and a log
            self._lock = open_locked(path / ".lock")
        except BlockingIOError:
            raise TrainError(f"{path}: another run is writing to it; wait for it to end, or choose another folder") from None
        except OSError as error:
            raise TrainError(f"{path}: cannot be written ({_reason(error)})") from None
        self._begin(resume)

    def _begin(self, resume: bool) -> None:
        self._clean()
        if self.newest() is not None:
            if not resume:
                raise TrainError(
                    f"{self.path}: already holds a run; continue it with --resume, remove it, or choose another folder"
                )
        elif others := [
            one.name for one in self.path.iterdir() if one.name not in (".lock", *((LOG, ANSWERS) if self._began else ()))
        ]:
            raise TrainError(f"{self.path}: holds {others[0]} but no run; choose another folder")
        else:
            (self.path / LOG).unlink(missing_ok=True)

    def _clean(self) -> None:
        """Remove what a killed run was writing: a checkpoint, or files in OUT or in the last checkpoint."""
        for left in self.path.glob(".step-*.unfinished"):
            shutil.rmtree(left, ignore_errors=True)
        newest = self.newest()
        for file in [self.path / LOG, *(newest.iterdir() if newest else ())]:
            for folder in {self.path, file.parent}:
                for left in folder.glob(temporary_names(file)):
                    left.unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    def newest(self) -> Path | None:
        """The last checkpoint, if there is one."""
        return max(self.path.glob("step-[0-9]*"), default=None)

    def save(self, model: nn.Module, optimizer: optim.Optimizer, progress: Progress) -> None:
        """Write a checkpoint, then remove all others except the best.

        Raises:
            TrainError: it cannot be written; earlier checkpoints are untouched.
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
            where = f"{kept} is complete, continue from it with --resume" if kept else "there is no earlier one"
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
        """Read the last checkpoint's weights and optimizer state, and return its progress; None without a checkpoint.

        Raises:
            TrainError: it belongs to another run; the message names the difference.
            CheckpointError: it is damaged.
        """
        folder = self.newest()
        if folder is None:
            return Progress()
        state = read_json(folder / STATE)
        if state.get("run") != json.loads(json.dumps(self._identity)):
            raise TrainError(f"{folder}: belongs to another run: {_difference(state.get('run') or {}, self._identity)}")
        read_weights(folder)
        check_regular(folder / OPTIMIZER)
        try:
            kept: Any = mx.load(str(folder / OPTIMIZER))
        except RuntimeError as error:
            raise CheckpointError(f"{folder / OPTIMIZER}: cannot be read ({_reason(error)})") from None
        optimizer.state = tree_unflatten(list(kept.items()))
        progress = Progress(**state["progress"])
        self._cut_log(progress.step)
        return progress

    def publish(self, progress: Progress) -> None:
        """Put the files of the best checkpoint into OUT itself; the last one if there was no evaluation."""
        folder = self._best(progress) or self.newest()
        for file in folder.iterdir() if folder else ():
            if file.name not in (STATE, OPTIMIZER, ROUND):
                write_atomically(self.path / file.name, partial(_link, file))

    def log(self, line: dict[str, Any]) -> None:
        with (self.path / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _cut_log(self, step: int) -> None:
        """Drop the log lines that an interrupted run wrote after its last checkpoint."""
        file = self.path / LOG
        if log := read_bytes(file, TrainError, missing=b""):
            lines = [line for line in log.decode(errors="replace").splitlines() if _step_of(line) <= step]
            write_atomically(file, "".join(line + "\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):  # cut off by a kill
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
