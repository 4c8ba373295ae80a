"""The results of a denoising run: plain numbers, NumPy only."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..choices import TILE as TILE
from ..formatting import format_bytes, format_seconds

MOST_REJECTED = 64
NO_GUESSES = np.zeros((0, 2), dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Step:
    """One denoising step of one canvas.

    Attributes:
        index: the step's number in the schedule, from 0. The fast loop skips steps that would commit nothing,
            which leaves gaps; the reference decoder runs every step.
        tokens: the whole canvas after the step, int32 `[L]`: the prompt first, then answer and masks.
        committed: the positions written in this step, ascending, int32 `[n]`.
        scores: the score of each of them when it was chosen, float32 `[n]`; larger is surer. The
            scale is that of `GenerationConfig.alg`.
        nfe: forward passes so far, including this step's, of the canvases that are denoised together.
        positions: positions of this canvas forwarded so far, over all forwards.
        window: the first position forwarded in this step, and one past the last. The canvas's last position,
            which a window may forward in addition, is not counted.
        rows: for each of these forwards, the positions in it over the whole batch. In a canvas's first one its known text
            is left out, because an autoregressive model forwards it too.
        rejected: guesses that this step's forward did not confirm: positions and tokens, int32 `[k, 2]`, one a position,
            at most `MOST_REJECTED`. Only the window `tree` guesses.
        deleted, expanded: for a model that changes the canvas's length, the positions that left the canvas in this
            step, and those that became two masks, ascending, int32; both on the canvas before the step.
        remasked: the positions masked again in this step, ascending, int32. No commit rule does that now; traces of
            older versions have it.
    """

    index: int
    tokens: NDArray[np.int32]
    committed: NDArray[np.int32]
    scores: NDArray[np.float32]
    nfe: int
    positions: int
    window: tuple[int, int] = (0, 0)
    rows: tuple[int, ...] = ()
    rejected: NDArray[np.int32] = field(default_factory=lambda: NO_GUESSES)
    deleted: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    expanded: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    remasked: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    def unchanged(self) -> Self:
        """A step after this one that changes nothing: the canvas is finished, and others of its batch are not."""
        none = np.zeros(0, dtype=np.int32)
        still = replace(self, committed=none, scores=none.astype(np.float32), rejected=NO_GUESSES)
        return replace(still, deleted=none, expanded=none)

    @classmethod
    def empty(cls, tokens: NDArray[np.int32]) -> Self:
        """A step that changed nothing: the canvas `tokens`, int32 `[L]`, had no masks."""
        none = np.zeros(0, dtype=np.int32)
        return cls(0, tokens, none, none.astype(np.float32), 0, 0)


def after_step(positions: NDArray[np.int32], deleted: NDArray[np.int32], expanded: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where positions, or the edges of holes, of any shape are after a step that changed the canvas's length."""
    return (positions - np.searchsorted(deleted, positions) + np.searchsorted(expanded, positions)).astype(np.int32)


def resized(values: NDArray[Any], deleted: NDArray[np.int32], expanded: NDArray[np.int32]) -> NDArray[Any]:
    """Values of each position `[L]` after such a step: a position that became two has its value twice."""
    copies = np.ones(len(values), dtype=np.int32)
    copies[deleted], copies[expanded] = 0, 2
    return np.repeat(values, copies)


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The numbers to report with every speed.

    Attributes:
        nfe: forward passes.
        positions: positions forwarded, over all forwards.
        useful_tokens: tokens of the answer up to and including its end token. Padding after the end and masks
            that were never filled do not count.
        seconds: wall-clock time.
        peak_memory_bytes: MLX's peak memory.
        rows: how many forwards had so many rows, by their rows, as in `Step.rows`; empty where that is not known.
        tile: the rows of a tile.
    """

    nfe: int
    positions: int
    useful_tokens: int
    seconds: float
    peak_memory_bytes: int
    rows: Mapping[int, int] = field(default_factory=Counter)
    tile: int = TILE

    @property
    def tiles_per_useful_token(self) -> float | None:
        """Tiles of all forwards, for each useful token; None where either is not known."""
        tiles = sum(-(-rows // self.tile) * forwards for rows, forwards in self.rows.items())
        return tiles / self.useful_tokens if tiles and self.useful_tokens else None

    @property
    def tokens_per_forward(self) -> float:
        return self.useful_tokens / self.nfe if self.nfe else 0.0

    @property
    def positions_per_useful_token(self) -> float:
        return self.positions / self.useful_tokens if self.useful_tokens else math.inf

    @property
    def tokens_per_second(self) -> float:
        return self.useful_tokens / self.seconds if self.seconds else 0.0

    def lines(self) -> dict[str, str]:
        """The numbers for people: a label and a text with its unit each, in the order to print them."""
        tiles = self.tiles_per_useful_token
        return {
            "forwards (NFE)": f"{self.nfe}",
            "positions forwarded": f"{self.positions}",
            "useful tokens": f"{self.useful_tokens}",
            "useful tokens per forward": f"{self.tokens_per_forward:.2f}",
            "positions per useful token": f"{self.positions_per_useful_token:.1f}",
            **({} if tiles is None else {"tiles per useful token": f"{tiles:.3f}  ({self.tile} rows a tile)"}),
            "useful tokens per second": f"{self.tokens_per_second:.1f}  ({format_seconds(self.seconds)})",
            "peak memory": format_bytes(self.peak_memory_bytes),
        }

    def to_dict(self) -> dict[str, Any]:
        """The counts and the rates computed from them, ready for JSON."""
        ratio = self.positions_per_useful_token
        return {
            **asdict(self),
            "rows": dict(sorted(self.rows.items())),
            "tiles_per_useful_token": self.tiles_per_useful_token,
            "tokens_per_forward": self.tokens_per_forward,
            "positions_per_useful_token": ratio if math.isfinite(ratio) else None,
            "useful_tokens_per_second": self.tokens_per_second,
        }
