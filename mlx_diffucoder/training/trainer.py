"""The training loop: a method's batches, their gradients, one optimizer step; reports, evaluations, checkpoints.

A `Method` supplies the data and the loss. There is no second loop.
"""

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from ..device import synchronized
from ..errors import TrainError
from ..models.transformer import DiffusionModel
from .parallel import launched
from .settings import TrainSettings
from .state import Progress, RunFolder

Arrays = tuple[mx.array, ...]
Evaluate = Callable[[DiffusionModel], float]
SMOOTH = 0.98  # decay of the running loss
WATCHED = 50  # steps before divergence is checked
FAR = 3.0  # a running loss this many times the lowest,
MUON_RATE = 6.0  # times AdamW's rate; at a width of a few hundred, weights then move about equally far
FAR_NATS = 1.0  # and this many nats above it, means that training diverged


class Method(ABC):
    """Supplies the data of a step and its loss."""

    @abstractmethod
    def batches(self, model: DiffusionModel, step: int) -> Sequence[Arrays]:
        """The parts of a step; their losses are summed. The first array of each is the tokens `[B, L]`.

        They depend only on the step, the seed and the model's weights: a resumed run must get the same as
        an uninterrupted one.
        """

    @abstractmethod
    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        """The scalar loss of one part."""

    def news(self) -> dict[str, float]:
        """More numbers to report, by name, over the steps since the last call."""
        return {}

    def save(self, folder: Path) -> None:  # noqa: B027
        """Write into a checkpoint folder what later steps need."""

    def read(self, folder: Path) -> None:  # noqa: B027
        """Read what `save` wrote."""


@dataclass
class Report:
    """Means over some steps; `news` holds the method's own numbers."""

    step: int
    loss: float
    norm: float
    rate: float
    tokens_per_second: float
    seconds: float
    memory: int
    valid: float | None = None
    news: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        numbers = {
            "step": self.step,
            "loss": round(self.loss, 6),
            "norm": round(self.norm, 5),
            "learning_rate": self.rate,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "seconds": round(self.seconds, 2),
            "memory": self.memory,
            **{name: round(value, 5) for name, value in self.news.items()},
        }
        return numbers if self.valid is None else {**numbers, "valid": round(self.valid, 6)}


@dataclass
class Hooks:
    """Callbacks of the loop.

    Attributes:
        report: called every `report_every` steps and after each evaluation.
        stop: called after each step; True saves the run and ends it.
    """

    report: Callable[[Report], None] = lambda report: None
    stop: Callable[[], bool] = lambda: False
    report_every: int = 10


@dataclass
class Trainer:
    """A training run: model, method, optimizer, folder and progress.

    Attributes:
        evaluate: returns the validation loss; None without validation data.
    """

    model: DiffusionModel
    method: Method
    settings: TrainSettings
    folder: RunFolder
    evaluate: Evaluate | None = None
    hooks: Hooks = field(default_factory=Hooks)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.settings)
        self.optimizer.init(self.model.trainable_parameters())
        self._gradient = nn.value_and_grad(self.model, lambda *arrays: self.method.loss(self.model, *arrays))
        self._window: list[tuple[float, float, int]] = []  # loss, gradient norm and tokens of the steps since the last report
        self._since = time.perf_counter()
        self.last: dict[str, Any] = {}

    @synchronized()
    def run(self) -> bool:
        """Train to the last step. Returns False if it was stopped before.

        Raises:
            TrainError: the loss is not a number, or far above the lowest; the last checkpoint is kept.
        """
        self.model.train()
        # A finished run that is resumed has nothing left to do, also one that ended early.
        while self.progress.step < self.settings.steps and not self._out_of_patience:
            self._step()
            step = self.progress.step
            last = step == self.settings.steps
            if step % self.hooks.report_every == 0 or last:
                self._report()
            if self.evaluate is not None and (step % self.settings.eval_every == 0 or last) and self._evaluate():
                return True
            stop = launched().any(self.hooks.stop())
            if stop or last or step % self.settings.save_every == 0:
                self.folder.save(self.model, self.optimizer, self.progress)
            if stop and not last:
                return False
        return True

    def _step(self) -> None:
        step = self.progress.step
        mx.random.seed((self.settings.seed * 1_000_003 + step) % 2**63)  # for dropout
        set_rate(self.optimizer, self.settings.rate(step))
        parts = self.method.batches(self.model, step)
        value, gradient = launched().summed(*self._sum(launched().own(parts)))
        gradient, norm = optim.clip_grad_norm(gradient, self.settings.clip)
        self.optimizer.update(self.model, gradient)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state, norm)
        loss, size = float(value), float(norm)
        self._watch(loss, size, step)
        self.progress.step = step + 1
        self._window.append((loss, size, sum(part[0].size for part in parts)))

    def _sum(self, parts: Sequence[Arrays]) -> tuple[mx.array, Any]:
        """The loss and the gradient, summed over all parts.

        On a CPU, where MLX runs a stream in one thread, each part has its own stream. The order of the sum
        stays the same.
        """
        total: tuple[mx.array, Any] | None = None
        lanes = streams()
        for start in range(0, len(parts), len(lanes)):
            found = []
            for stream, part in zip(lanes, parts[start:], strict=False):
                with mx.stream(stream):
                    found.append(self._gradient(*part))
            for one in found:
                total = one if total is None else (total[0] + one[0], tree_map(mx.add, total[1], one[1]))
            mx.eval(total)
        # No part is left for this process.
        return total or (mx.array(0.0), tree_map(mx.zeros_like, self.model.trainable_parameters()))

    def _watch(self, loss: float, norm: float, step: int) -> None:
        """Raise `TrainError` if training has diverged."""
        kept = self.folder.newest()
        where = f"{kept} is the last checkpoint" if kept else "nothing was saved"
        advice = f"{where}; a smaller --learning-rate or a longer --warmup may help"
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainError(f"the loss is {loss} and the gradient's norm {norm} at step {step + 1}: {advice}")
        progress = self.progress
        progress.running = loss if progress.running is None else SMOOTH * progress.running + (1 - SMOOTH) * loss
        if step < WATCHED:
            return
        if progress.lowest is None or progress.running < progress.lowest:
            progress.lowest = progress.running
        elif progress.running > FAR * progress.lowest + FAR_NATS:
            raise TrainError(
                f"the loss is rising: {progress.running:.3g} on average at step {step + 1}, {progress.lowest:.3g} at best;"
                f" {advice}"
            )

    def _report(self, valid: float | None = None) -> None:
        window, now = self._window, time.perf_counter()
        if window:
            seconds = now - self._since
            self.progress.seconds += seconds
            self._report_of_steps = Report(
                step=self.progress.step,
                loss=sum(loss for loss, _, _ in window) / len(window),
                norm=sum(norm for _, norm, _ in window) / len(window),
                rate=self.settings.rate(self.progress.step - 1),
                tokens_per_second=sum(tokens for _, _, tokens in window) / seconds,
                seconds=self.progress.seconds,
                memory=mx.get_peak_memory(),
                news=self.method.news(),
            )
        self._window, self._since = [], now
        report = self._report_of_steps
        report.valid = valid
        self.last = report.to_dict()
        self.folder.log(self.last)
        self.hooks.report(report)

    def _evaluate(self) -> bool:
        """Evaluate, and save if the loss is the best so far. Returns True if `patience` ends the run."""
        if self._window:
            self._report()
        self.model.eval()
        loss = launched().agreed(self.evaluate(self.model) if self.evaluate else 0.0)
        self.model.train()
        progress = self.progress
        better = progress.best is None or loss < progress.best
        if better:
            progress.best, progress.best_step, progress.worse = loss, progress.step, 0
        else:
            progress.worse += 1
        self._report(valid=loss)
        if better or self._out_of_patience:
            self.folder.save(self.model, self.optimizer, progress)
        self._since = time.perf_counter()
        return self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.worse


class _Muon(optim.Muon):
    """Muon that orthogonalizes its matrices in parallel if there are several streams."""

    def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
        self._lanes = cycle(streams())
        return super().apply_gradients(gradients, parameters)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> Any:
        with mx.stream(next(self._lanes)):
            return super().apply_single(gradient, parameter, state)


def make_optimizer(settings: TrainSettings) -> optim.MultiOptimizer:
    """AdamW, with weight decay on matrices only (not on biases, norms or embeddings), or Muon for the layers' matrices."""

    def adamw(decay: float) -> optim.Optimizer:
        return optim.AdamW(
            learning_rate=settings.learning_rate, betas=[0.9, 0.98], weight_decay=decay, bias_correction=True, eps=1e-8
        )

    def is_matrix(name: str, value: mx.array) -> bool:
        return value.ndim > 1 and "embed" not in name

    def is_layers(name: str, value: mx.array) -> bool:
        return value.ndim > 1 and "layers." in name

    kinds, owners = [adamw(settings.weight_decay), adamw(0.0)], [is_matrix]
    if settings.optimizer == "muon":
        # MLX's Muon adds the decay to the gradient before orthogonalizing, which would remove it.
        kinds, owners = [_Muon(settings.learning_rate, weight_decay=0.0), *kinds], [is_layers, *owners]
    return optim.MultiOptimizer(kinds, owners)


def set_rate(optimizer: optim.MultiOptimizer, rate: float) -> None:
    """Set the learning rate of every part: `rate` for AdamW, a multiple for Muon."""
    for part in optimizer.optimizers:
        part.learning_rate = rate * (MUON_RATE if isinstance(part, optim.Muon) else 1.0)


def streams() -> list[Any]:
    """One stream per core on a CPU; on a GPU the default one, which keeps it busy."""
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    return [mx.default_stream(mx.default_device())] if on_gpu else _cpu_streams()


@cache
def _cpu_streams() -> list[Any]:
    return [mx.new_stream(mx.cpu) for _ in range(os.cpu_count() or 1)]
