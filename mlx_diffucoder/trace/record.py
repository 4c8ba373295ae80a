"""One step of a trace, as a line of the file has it. Needs no model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..decoding.result import MOST_REJECTED, resized

LARGEST_SCORE = 3e38  # float32 holds no more


class Resizing(NamedTuple):
    """What a step did to a canvas's length, in positions on the last canvas, int32.

    Attributes:
        inserted: masks that were new.
        before_deleted: positions that followed one which left the canvas.
    """

    inserted: NDArray[np.int32]
    before_deleted: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Record:
    """One step of a trace: a `Step` without its canvas, and its time.

    Attributes:
        index, nfe, positions, window, committed, remasked, scores, deleted, expanded: as in `Step`.
        rows: as in `Step`, of this step's forwards only; empty in traces of 0.1.0.
        seconds: from the start of the run to the end of the step.
        tokens: the committed ids, int32 `[n]`.
        others: positions and ids of tokens that were written in another way (padding, a hook), two int32 `[m]`.
        rejected: positions and ids of guesses that the forward did not confirm, two int32 `[k]`.
        length: of the canvas after the step.
    """

    index: int
    seconds: float
    nfe: int
    positions: int
    rows: tuple[int, ...]
    window: tuple[int, int]
    committed: NDArray[np.int32]
    tokens: NDArray[np.int32]
    scores: NDArray[np.float32]
    remasked: NDArray[np.int32]
    others: tuple[NDArray[np.int32], NDArray[np.int32]]
    rejected: tuple[NDArray[np.int32], NDArray[np.int32]]
    deleted: NDArray[np.int32]
    expanded: NDArray[np.int32]
    length: int

    @classmethod
    def of(cls, row: dict[str, Any], length: int, seconds: float) -> Self:
        """The record in one line of a trace file.

        Args:
            row: the line's JSON object.
            length: of the canvas before the step, in tokens.
            seconds: from the start of the canvas's run; the line's own time counts from the start of the file.

        Raises:
            ValueError, KeyError, TypeError: the line is not a step of such a canvas.
        """
        at, tokens, scores = row["at"], row["tokens"], [math.nan if score is None else score for score in row["scores"]]
        if not all(abs(score) < LARGEST_SCORE for score in scores if math.isfinite(score)):
            raise ValueError("a score is too large")
        remasked, (others, other_tokens) = row.get("back", []), row.get("others", ([], []))
        rejected, rejected_tokens = row.get("rejected", ([], []))
        pairs = ((at, tokens), (at, scores), (others, other_tokens), (rejected, rejected_tokens))
        if not all(len(one) == len(other) for one, other in pairs):
            raise ValueError("its lists are not of one length")
        if len(rejected) > MOST_REJECTED:
            raise ValueError(f"it has more than {MOST_REJECTED} rejected guesses")
        deleted, expanded = (_ids(row.get(name, [])) for name in ("deleted", "expanded"))
        for changed in (deleted, expanded):
            if (np.diff(changed, prepend=-1, append=length) < 1).any():
                raise ValueError("positions that it deletes or expands are off the canvas, or not in order")
        if len(np.intersect1d(deleted, expanded)):
            raise ValueError("it deletes and expands one position")
        length += len(expanded) - len(deleted)
        if not all(0 <= position < length for position in (*at, *remasked, *others, *rejected)):
            raise ValueError("a position is off the canvas")
        step, nfe, positions, first, end = (int(one) for one in (row["step"], row["nfe"], row["positions"], *row["window"]))
        rows = tuple(int(one) for one in row.get("rows", ()))
        if not all(0 <= number < 2**53 for number in (step, nfe, positions, first, end, *rows)):
            raise ValueError("a number is not a count")
        return cls(
            step, seconds, nfe, positions, rows, (first, end),
            _ids(at), _ids(tokens), np.array(scores, dtype=np.float32), _ids(remasked), (_ids(others), _ids(other_tokens)),
            (_ids(rejected), _ids(rejected_tokens)), deleted, expanded, length,
        )  # fmt: skip

    def on_final(self, final: NDArray[np.int32], length: int) -> tuple[Self, "Resizing", NDArray[np.int32]]:
        """The step as in `Trace.on_final`, what it did to the length, and the `final` of the step before.

        Args:
            final: for each position of the canvas after the step the one in the end, or -1 for none, int32.
            length: of the last canvas.
        """
        before = np.full(self.length - len(self.expanded) + len(self.deleted), -1, dtype=np.int32)
        origin = resized(np.arange(len(before)), self.deleted, self.expanded)
        before[origin[::-1]] = final[::-1]  # of two masks that came of one, the first
        following = np.minimum.accumulate(np.where(before < 0, max(length - 1, 0), before)[::-1])[::-1]
        second = final[np.flatnonzero(np.diff(origin) == 0) + 1]
        resizing = Resizing(second[second >= 0], following[self.deleted])

        def kept(at: NDArray[np.int32], values: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
            return final[at][final[at] >= 0], values[final[at] >= 0]

        committed, tokens = kept(self.committed, self.tokens)
        _, scores = kept(self.committed, self.scores)
        remasked, _ = kept(self.remasked, self.remasked)
        moved = replace(
            self, committed=committed, tokens=tokens, scores=scores, remasked=remasked, others=kept(*self.others),
            rejected=kept(*self.rejected), deleted=_ids([]), expanded=_ids([]), length=length,
        )  # fmt: skip
        return moved, resizing, before


def _ids(values: Sequence[int]) -> NDArray[np.int32]:
    ids = np.array(values, dtype=np.int32)
    if ids.ndim != 1 or ids.tolist() != list(values):
        raise ValueError("an id is not a whole number")
    return ids
