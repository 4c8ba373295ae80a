"""A run, ready to start: data checked, memory computed. `supervised_job` makes one that learns from texts."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..data import Text
from ..formatting import format_bytes
from ..memory import memory_size
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .batches import Batches, batches_per_epoch
from .data import Examples, read_examples
from .learners import Learner
from .memory import Memory, memory_to_train
from .objective import loss
from .parallel import UnwrittenFolder, launched
from .recompute import recompute_layers
from .settings import TrainSettings
from .state import RunFolder
from .trainer import Arrays, Evaluate, Hooks, Method, Trainer, make_optimizer, streams

FREE = ("save_every", "eval_every", "patience")
"""Settings that may change when a run is resumed: no weight depends on them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """A run that is ready to start.

    Attributes:
        what: what the run learns from, for people.
        skipped: a line for each option whose file has texts that are left out.
        memory: what it takes at most, in bytes.
        method: makes the method of the trainer.
        evaluation: makes the evaluation; None without data for it.
        identity: the method and its data: what a resumed run must have in common with its checkpoint, besides the
            model and the settings.
    """

    learner: Learner
    settings: TrainSettings
    what: str
    skipped: Sequence[str] = ()
    memory: Memory
    method: Callable[[], Method]
    evaluation: Callable[[], Evaluate] | None
    identity: dict[str, Any]

    def trainer(self, out: Path, hooks: Hooks, *, resume: bool) -> Trainer:
        """The run, at its start or at the last checkpoint in `out`.

        Raises:
            TrainError: `out` holds a run and `resume` is not set, or it holds another run, or it cannot be written.
        """
        learner, method = self.learner, self.method()
        evaluate = self.evaluation() if self.evaluation else None

        def write(folder: Path, model: nn.Module) -> None:
            learner.write(folder, model)
            method.save(folder)

        def read(folder: Path) -> None:
            learner.read(folder)
            method.read(folder)

        settings = {name: value for name, value in vars(self.settings).items() if name not in FREE}
        identity = {**learner.identity, **settings, **self.identity}
        launched().check_equal(identity)
        folder = UnwrittenFolder() if launched().rank else RunFolder(out, identity, write, resume=resume)
        trainer = Trainer(learner.model, method, self.settings, folder, evaluate, hooks)
        trainer.progress = folder.restore(read, trainer.optimizer)
        launched().begin(trainer)
        return trainer

    def describe(self) -> list[str]:
        """Lines for people: texts that are left out, what the run learns from, and the memory that it takes."""
        sizes = {name: format_bytes(count) for name, count in self.memory.to_dict().items()}
        total = sizes.pop("total")
        parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        machine = format_bytes(memory_size())
        about = f"{self.what}, {self.settings.steps} steps; about {total} at most: {parts}; this machine has {machine}"
        return [*self.skipped, about]


@dataclass(frozen=True, eq=False)
class Data:
    """The texts to learn from, and those to evaluate on."""

    train: Examples
    valid: Examples | None

    @classmethod
    def read(cls, train: Path, valid: Path | None, tokenizer: Tokenizer, **how: Any) -> "Data":
        """Read both files, with the keywords of `read_examples`. Raises as that."""
        return cls(read_examples(train, tokenizer, **how), read_examples(valid, tokenizer, **how) if valid else None)

    def steps(self, epochs: float, settings: TrainSettings) -> int:
        """The optimizer steps of so many passes through the data, at least one."""
        batches = batches_per_epoch(len(self.train.kept), settings.batch_size)
        return max(1, round(epochs * batches / settings.accumulate))


class Supervised(Method):
    """The masked-diffusion objective, the causal one, or both, on examples."""

    def __init__(self, batches: Batches, accumulate: int):
        launched().check_parts(accumulate)
        self._batches, self._accumulate = batches, accumulate

    def batches(self, model: DiffusionModel, step: int) -> Sequence[Arrays]:
        return [batch.arrays() for batch in self._batches.draw(step * self._accumulate, self._accumulate)]

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        return loss(model, *arrays)


def supervised_job(learner: Learner, settings: TrainSettings, data: Data, *, gradient_checkpointing: bool = False) -> Job:
    """A run that learns from texts. Raises `TrainError` where the model's family cannot learn as the settings say."""
    settings.check_family(learner.model.family)
    if gradient_checkpointing:
        recompute_layers(learner.model)
    train, valid = data.train, data.valid
    return Job(
        learner=learner,
        settings=settings,
        what=f"{len(train.kept)} texts",
        skipped=[
            f"{flag}: {examples.skipped} of {examples.skipped + len(examples.kept)} texts are too long"
            for flag, examples in (("--data", train), ("--valid", valid))
            if examples and examples.skipped
        ],
        memory=memory_to_train(
            learner.model,
            make_optimizer(settings),
            batch=min(settings.batch_size, len(train.kept)),
            length=settings.max_length,
            accumulate=settings.accumulate,
            lanes=len(streams()),
        ),
        method=lambda: Supervised(Batches(train.kept, learner.tokenizer, settings), settings.accumulate),
        evaluation=(lambda: _validation(valid.kept, learner, settings)) if valid else None,
        identity={
            "method": "sft",
            "data": digest(map(_bytes_of, train.kept)),
            "valid": digest(map(_bytes_of, valid.kept if valid else [])),
        },
    )


def _validation(examples: Sequence[Text], learner: Learner, settings: TrainSettings) -> Evaluate:
    """The loss over all validation examples, with the same canvases and masks each time."""
    settings = replace(settings, smoothing=0.0)  # so that losses of runs are comparable
    if settings.objective == "mixed":  # the model is used by masked diffusion
        settings = replace(settings, objective="masked")
    batches = Batches(examples, learner.tokenizer, settings)
    kept = batches.draw(0, batches.per_epoch)

    def evaluate(model: DiffusionModel) -> float:
        return sum(float(loss(model, *batch.arrays())) for batch in kept)

    return evaluate


def _bytes_of(example: Text) -> bytes:
    sizes = f"{len(example.prompt)} {len(example.answer)} "
    return sizes.encode() + example.prompt.tobytes() + example.answer.tobytes()


def digest(pieces: Iterable[bytes]) -> str:
    """What identifies the data of a run: 16 hexadecimal digits."""
    hashed = hashlib.sha256()
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()[:16]
