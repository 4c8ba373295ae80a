"""Windows at work: what is forwarded of one canvas now, and the keys and values kept of it.

The loop asks a sight for what the network puts out where tokens may be committed. What each shows,
and why, is said where it is named, in `windows`.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...models.transformer import DiffusionModel
from ..canvas import Canvas, masked_first


@dataclass(frozen=True, eq=False)
class ForwardOutput:
    """What one forward shows.

    Attributes:
        positions: int32 `[B, R]`, where on the canvas the candidates stand; no position twice in a row.
        valid: bool `[B, R]`, which of them are masked.
        again: bool `[B, R]`, which of them are not, but are looked at again. What is neither only
            fills the rectangle.
        hidden: `[B, R, D]`, what the layers put out for the candidates: shifted already, and still
            to go through `DiffusionModel.logits`.
        forwarded: positions that went through the network, over all rows of the rectangle, a row.
        forwards: forward passes that took, 0 where the answer was known already.
        every: `[B, L, V]`, the shifted logits of the whole canvas, where they were asked for.
        window: int32 `[B, 2]`, the first and one past the last position forwarded, the canvas's last one beside
            them left out; None is the whole canvas.
    """

    positions: NDArray[np.int32]
    valid: NDArray[np.bool_]
    again: NDArray[np.bool_]
    hidden: mx.array
    forwarded: int
    forwards: int = 1
    every: mx.array | None = None
    window: NDArray[np.int32] | None = None


class WindowState(Protocol):
    """A window opened on one canvas."""

    def look(self, tokens: mx.array, known: NDArray[np.int32], again: NDArray[np.bool_], *, every: bool = False) -> ForwardOutput:
        """Forward what the window shows.

        Args:
            tokens: the canvas `[B, L]`.
            known: the same on the host.
            again: bool `[B, L]`, committed positions to look at again, where the window shows them.
            every: give the logits of the whole canvas too; only the whole canvas can.
        """
        ...

    def guess(self, positions: NDArray[np.int32], tokens: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        """Told after each look which token was chosen at each candidate and how it scored, `[B, R]` each."""
        ...


def candidates_of(
    masked: NDArray[np.bool_], again: NDArray[np.bool_], least: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
    """`ForwardOutput`'s positions, `valid` and `again`, of bool `[B, L]`."""
    positions, _ = masked_first(masked | again, least)
    return positions, np.take_along_axis(masked, positions, axis=1), np.take_along_axis(again, positions, axis=1)


def refuse(every: bool) -> None:
    """What a window that does not show the whole canvas does where all of it is asked for."""
    if every:
        raise ConfigError("window must be 'whole' for hooks: they see the whole canvas", field="window")


def rows_of(hidden: mx.array, rows: NDArray[np.int32]) -> mx.array:
    """Rows `[B, R]` of `[B, L, D]`."""
    return mx.take_along_axis(hidden, mx.array(rows)[..., None], axis=1)


class NoDrafts:
    """Of windows that make nothing of guesses."""

    def guess(self, positions: NDArray[np.int32], tokens: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        pass


class Window(Protocol):
    """What the loop needs to know of a window."""

    @property
    def stops(self) -> bool:
        """Whether decoding ends with the text, or with the canvas."""
        ...

    def extent(self, prompt: int, masks: int) -> tuple[int, int]:
        """Positions forwarded at once, and candidates among them, at most, of a prompt and masks of these lengths."""
        ...

    def open(self, model: DiffusionModel, canvas: Canvas) -> WindowState:
        """Start on a canvas, with nothing kept."""
        ...


class StopsWithText:
    @property
    def stops(self) -> bool:
        return True
