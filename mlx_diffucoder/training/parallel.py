"""One run on several processes that `mlx.launch` started: each computes a part of a step, and the gradients are summed.

All processes draw the same batches from the seed, so none sends data. Rank 0 writes the folder. MLX's ring is neither
encrypted nor authenticated: use a link that only you can reach.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from ..arrays import from_numpy
from ..errors import TrainError
from ..link import join, lead, versions
from ..ranks import Launch, rank
from .state import Progress, RunFolder

if TYPE_CHECKING:
    from .trainer import Trainer

T = TypeVar("T")


class Ranks:
    """The processes of a run. Alone, with `group` None, every method gives back what it gets.

    Attributes:
        rank, size: the number of this process, and of all.
    """

    def __init__(self, group: Any = None):
        self._group = group
        self.rank: int = group.rank() if group else 0
        self.size: int = group.size() if group else 1

    def own(self, parts: Sequence[T]) -> Sequence[T]:
        """This process's parts of a step."""
        return parts[self.rank :: self.size]

    def check_parts(self, parts: int) -> None:
        """Raise `TrainError` if a step has too few batches for every process to get one."""
        if parts < self.size:
            raise TrainError(
                f"accumulate must be at least {self.size}, one batch for each process, not {parts}", field="accumulate"
            )

    def check_equal(self, identity: Mapping[str, Any]) -> None:
        """Raise `TrainError` unless all processes have the same run: model, data and settings."""
        first, *others = self.gathered(identity)
        for number, other in enumerate(others, start=1):
            if names := [name for name, value in first.items() if other.get(name) != value]:
                raise TrainError(f"rank {number}: {names[0]} is {other.get(names[0])!r} there, and {first[names[0]]!r} at rank 0")

    def summed(self, loss: mx.array, gradient: Any) -> tuple[mx.array, Any]:
        """The sums over all processes."""
        if self.size == 1:
            return loss, gradient
        mean = nn.average_gradients(gradient, self._group)
        return mx.distributed.all_sum(loss, group=self._group), tree_map(lambda one: one * self.size, mean)

    def agreed(self, value: float) -> float:
        """Rank 0's value: machines round differently, and must decide alike."""
        return value if self.size == 1 else float(self._firsts(mx.array(value)))

    def any(self, flag: bool) -> bool:
        """Whether it is true in some process."""
        return flag if self.size == 1 else int(mx.distributed.all_sum(mx.array(int(flag)), group=self._group)) > 0

    def gathered(self, value: Any) -> list[Any]:
        """What each process gives, ready for JSON, by rank."""
        if self.size == 1:
            return [value]
        data = json.dumps(value).encode()
        sizes = np.array(mx.distributed.all_gather(mx.array([len(data)]), group=self._group))
        padded = from_numpy(np.frombuffer(data.ljust(sizes.max()), np.uint8))
        rows = np.array(mx.distributed.all_gather(padded[None], group=self._group))
        return [json.loads(row.tobytes()[:size]) for row, size in zip(rows, sizes, strict=True)]

    def begin(self, trainer: "Trainer") -> None:
        """Give every process rank 0's weights, optimizer state and progress, of a checkpoint for example."""
        if self.size == 1:
            return
        trainer.progress = Progress(**self.gathered(asdict(trainer.progress))[0])
        trainer.model.update(self._first_tree(trainer.model.trainable_parameters()))
        trainer.optimizer.state = self._first_tree(trainer.optimizer.state)
        mx.eval(trainer.model.trainable_parameters(), trainer.optimizer.state)

    def _first_tree(self, tree: Any) -> Any:
        """Rank 0's arrays, by name: those of a checkpoint are in another order than those that were just made."""
        arrays: Any = tree_flatten(tree)
        return tree_unflatten([(name, self._firsts(one)) for name, one in sorted(arrays, key=lambda pair: pair[0])])

    def _firsts(self, array: mx.array) -> mx.array:
        return mx.distributed.all_sum(array if self.rank == 0 else mx.zeros_like(array), group=self._group)


@cache
def launched() -> Ranks:
    """The processes that `mlx.launch` started with this one; this one alone if it did not. Waits for all of them.

    A process that is lost or stops ends all, with one line that names it, see `link`.

    Raises:
        RankError: the variables that `mlx.launch` sets are incomplete, or another process does not start or has another version.
    """
    if rank() is None:
        return Ranks()
    launch = Launch.read()
    return Ranks((lead if launch.rank == 0 else join)(launch, versions()).group)


class UnwrittenFolder(RunFolder):
    """The folder of a run in a process that writes nothing, for rank 0 does."""

    def __init__(self) -> None:
        pass

    def newest(self) -> Path | None:
        """No checkpoint."""
        return None

    def save(self, *_: Any) -> None:
        """Write nothing."""

    def restore(self, *_: Any) -> Progress:
        """The start of a run."""
        return Progress()

    def publish(self, *_: Any) -> None:
        """Write nothing."""

    def log(self, *_: Any) -> None:
        """Write nothing."""
