"""A supervised run, ready to start: data checked, memory computed."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..formatting import format_bytes
from ..memory import memory_size
from ..tokenizer import Tokenizer
from .batches import Batches, Drawing, batches_per_epoch
from .data import Example, Examples, read_examples
from .learners import Learner
from .memory import Memory, memory_to_train
from .recompute import recompute_layers
from .settings import TrainSettings
from .state import RunFolder
from .supervised import Supervised, validation
from .trainer import Hooks, Trainer, make_optimizer, streams

FREE = ("save_every", "eval_every", "patience")
"""Settings that may change when a run is resumed: no weight depends on them."""


@dataclass(frozen=True, eq=False)
class Data:
    """The texts to learn from, and those to evaluate on."""

    train: Examples
    valid: Examples | None

    @classmethod
    def read(cls, train: Path, valid: Path | None, tokenizer: Tokenizer, *, max_length: int, skip_long: bool) -> "Data":
        """Read both files. Raises as `read_examples`."""
        files = [read_examples(file, tokenizer, max_length=max_length, skip_long=skip_long) for file in (train, valid) if file]
        return cls(files[0], files[1] if valid else None)

    def steps(self, epochs: float, settings: TrainSettings) -> int:
        """The optimizer steps of so many passes through the data, at least one."""
        batches = batches_per_epoch(len(self.train.kept), settings.batch_size)
        return max(1, round(epochs * batches / settings.accumulate))


@dataclass(frozen=True, eq=False)
class Job:
    """A supervised run that is ready to start.

    Attributes:
        memory: what it takes at most, in bytes.
    """

    learner: Learner
    settings: TrainSettings
    data: Data
    memory: Memory

    @classmethod
    def of(cls, learner: Learner, settings: TrainSettings, data: Data, *, gradient_checkpointing: bool = False) -> "Job":
        if gradient_checkpointing:
            recompute_layers(learner.model)
        memory = memory_to_train(
            learner.model,
            make_optimizer(settings),
            batch=min(settings.batch_size, len(data.train.kept)),
            length=settings.max_length,
            accumulate=settings.accumulate,
            lanes=len(streams()),
        )
        return cls(learner, settings, data, memory)

    def trainer(self, out: Path, hooks: Hooks, *, resume: bool) -> Trainer:
        """The run, at its start or at the last checkpoint in `out`.

        Raises:
            TrainError: `out` holds a run and `resume` is not set, or it holds another run, or it cannot be written.
        """
        batches = Batches(self.data.train.kept, self.learner.tokenizer, self._drawing)
        evaluate = None
        if self.data.valid is not None:
            drawing = replace(self._drawing, smoothing=0.0)  # so that losses of runs are comparable
            if drawing.objective == "mixed":  # the model is used by masked diffusion
                drawing = replace(drawing, objective="masked")
            evaluate = validation(Batches(self.data.valid.kept, self.learner.tokenizer, drawing))
        folder = RunFolder(out, self.identity, self.learner.write, resume=resume)
        trainer = Trainer(
            self.learner.model, Supervised(batches, self.settings.accumulate), self.settings, folder, evaluate, hooks
        )
        trainer.progress = folder.restore(self.learner.read, trainer.optimizer)
        return trainer

    @property
    def what(self) -> str:
        """What the run learns from, for people."""
        return f"{len(self.data.train.kept)} texts"

    @property
    def skipped(self) -> list[str]:
        """A line for each option whose file has texts that are left out."""
        files = (("--data", self.data.train), ("--valid", self.data.valid))
        return [
            f"{flag}: {examples.skipped} of {examples.skipped + len(examples.kept)} texts are too long"
            for flag, examples in files
            if examples and examples.skipped
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its checkpoint."""
        settings = {name: value for name, value in self.settings.to_dict().items() if name not in FREE}
        valid = self.data.valid.kept if self.data.valid else []
        return {
            "method": "sft",
            **self.learner.identity,
            **settings,
            "data": _digest(self.data.train.kept),
            "valid": _digest(valid),
        }

    @property
    def _drawing(self) -> Drawing:
        settings = self.settings
        return Drawing(
            size=settings.batch_size,
            max_length=settings.max_length,
            infill=settings.infill,
            canvas=settings.canvas,
            seed=settings.seed,
            least_t=settings.least_t,
            prefixes=settings.prefixes,
            padding=settings.padding,
            objective=settings.objective,
            smoothing=settings.smoothing,
        )


class Startable(Protocol):
    """What `Job` and `GrpoJob` have in common."""

    @property
    def what(self) -> str: ...
    @property
    def skipped(self) -> list[str]: ...
    @property
    def settings(self) -> TrainSettings: ...
    @property
    def memory(self) -> Memory: ...


def describe(job: Startable) -> list[str]:
    """Lines for people: texts that are left out, what the run learns from, and the memory that it takes."""
    sizes = {name: format_bytes(count) for name, count in job.memory.to_dict().items()}
    total = sizes.pop("total")
    parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    machine = format_bytes(memory_size())
    return [*job.skipped, f"{job.what}, {job.settings.steps} steps; about {total} at most: {parts}; this machine has {machine}"]


def _digest(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{len(example.prompt)} {len(example.answer)} ".encode())
        digest.update(example.prompt.tobytes() + example.answer.tobytes())
    return digest.hexdigest()[:16]
