"""The protocols of a window, which decides what positions are forwarded in a step and whose K/V are cached.

A window is a small frozen value: you can print it, compare it and write it to a log. `open` gives its state for
one canvas, and the fast loop calls that state's `forward` in every step. Windows and their states are
subclasses of the protocols, whose methods with a body are the defaults.

Shapes: L positions on the canvas, R candidates, D the width of the network.
"""

from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...arrays import from_numpy
from ...models.kv import KeyValues
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, selected_first
from ..result import NO_GUESSES


@dataclass(frozen=True, eq=False)
class StepResult:
    """The outcome of a step; `[R]` for the R candidates of `ForwardOutput`.

    Attributes:
        chosen: int32, the token chosen at each candidate.
        scores: float32, as in `rules.base.Candidates`.
        commit: bool, where the chosen token was committed.
        tokens: the canvas after the step, int32 `[L]`.
        guessed: int32 `[G]`, the token chosen at each row of `ForwardOutput.guesses`.
        guessed_scores: float32 `[G]`.
        best, best_probs: int32 and float32 `[R, 2]`, the two most probable tokens of each candidate; None
            where the window has no guesses.
        rejected: the guesses to show as rejected, int32 `[k, 2]`, as in `Step`.
        done: whether the window fills no mask that is left.
    """

    chosen: NDArray[np.int32]
    scores: NDArray[np.float32]
    commit: NDArray[np.bool_]
    tokens: NDArray[np.int32]
    guessed: NDArray[np.int32]
    guessed_scores: NDArray[np.float32]
    best: NDArray[np.int32] | None = None
    best_probs: NDArray[np.float32] | None = None
    rejected: NDArray[np.int32] = field(default_factory=lambda: NO_GUESSES)
    done: bool = False


class Part(NamedTuple):
    """What a window asks of the network: the arguments of `Backbone`, whose hidden states `[K, L, D]` it gets back.

    Attributes:
        tokens: ids, int32 `[K, L]`. K is 1 where there is a mask or a cache.
        positions: of the first token, or int32 `[K, L]`.
        mask: bool, broadcast to `[1, 1, L, S]`; None attends to all keys.
        kv: a cache.
        rows: int32 `[R]`, the tokens whose hidden states are read, `[K, R, D]`; None for all.
    """

    tokens: mx.array
    positions: int | mx.array = 0
    mask: mx.array | None = None
    kv: KeyValues | None = None
    rows: mx.array | None = None


@dataclass(frozen=True, eq=False)
class ForwardOutput:
    """The result of one forward.

    Attributes:
        positions: int32 `[R]`, where the candidates are on the canvas; no position twice.
        masked: bool `[R]`, the candidates that may be committed. The others only fill up their number.
        hidden: `[1, R, D]`, the output of the layers that predicts each candidate: shifted already, and the input
            of `DiffusionModel.logits`.
        forwarded: positions that went through the network.
        span: the first position forwarded, and one past the last. The canvas's last position,
            which a window may forward in addition, is not counted.
        guesses: G, how many rows at the end of `hidden` belong to no candidate: `hidden` is `[1, R + G, D]`. A token is
            chosen for these too, and `WindowState.observe` decides what becomes of it.
        certain: bool `[R]`, candidates that every rule commits, however sure the model is; None for none.
        forced: int32 `[R]`, as in `rules.base.Candidates`.
    """

    positions: NDArray[np.int32]
    masked: NDArray[np.bool_]
    hidden: mx.array
    forwarded: int
    span: tuple[int, int]
    guesses: int = 0
    certain: NDArray[np.bool_] | None = None
    forced: NDArray[np.int32] | None = None


Forward = Generator[Part, mx.array, ForwardOutput]
"""A forward: it yields what the network computes, is sent the hidden states, and returns its output.

So the decoder, and not the window, calls the network: once for all canvases that it decodes together.
"""


class WindowState(Protocol):
    """A window at work on one canvas, with its K/V cache."""

    def forward(self, tokens: NDArray[np.int32]) -> Forward:
        """Forward some positions of the canvas. What is known already takes no forward.

        Args:
            tokens: the canvas, int32 `[L]`.
        """
        ...

    def observe(self, output: ForwardOutput, result: StepResult) -> StepResult:
        """Called after each step, with what `forward` returned.

        Returns:
            The result, for most windows as it is; a window that verifies guesses commits those that were right.
        """
        return result


class Window(Protocol):
    """A window and its parameters: a dataclass. `str` prints it as `GenerationConfig.window` takes it."""

    @property
    def name(self) -> str:
        """Its name in the table of windows."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters, by the names `choices.WINDOWS` gives them."""
        return asdict(self)  # type: ignore[call-overload]

    @property
    def guesses(self) -> bool:
        """Whether it guesses tokens, and needs the two most probable ones of each candidate."""
        return False

    @property
    def stops_at_end(self) -> bool:
        """Whether decoding stops when the text has ended, or continues until the canvas is full."""
        return True

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        """The memory that a forward needs.

        Args:
            prompt: tokens of known text.
            masks: masks on the canvas.

        Returns:
            The most positions in one forward, and the most candidates among them.
        """
        ...

    def check(self, model: DiffusionModel) -> None:
        """Raise `ConfigError` where it cannot decode with a model."""
        model.family.refuse(f"window {self.name}")

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        """Start on a canvas, with an empty cache."""
        ...

    def __str__(self) -> str:
        return ":".join(filter(None, [self.name, ",".join(f"{name}={value}" for name, value in self.parameters.items())]))


def candidates_of(masked: NDArray[np.bool_], at_least: int = 1) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """`positions` and `masked` of `ForwardOutput`.

    Args:
        masked: bool `[L]`, what may be committed.
        at_least: the least R, as far as L allows; a window that sets it gets fewer different shapes.
    """
    positions = selected_first(masked, at_least)
    return positions, masked[positions]


def rows_of(hidden: mx.array, rows: NDArray[np.int32]) -> mx.array:
    """Rows `[R]` of `hidden` `[1, L, D]`; `[1, R, D]`."""
    return hidden[:, from_numpy(rows)]
