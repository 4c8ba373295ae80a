"""The canvas: token ids of which some are masks to be filled."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..models.base import SizeIds


@dataclass(frozen=True, eq=False)
class Canvas:
    """Token ids before the first step: known text with holes of masks in it.

    Attributes:
        tokens: int32 `[L]`.
        holes: int32 `[H, 2]`, the start and end (exclusive) of each hole, from left to right. The canvas of an answer has
            one hole: everything after the prompt.
        mask_id: the id of the mask token.
        pad_id: the id that fills the rest of a hole after its text has ended.
        end_ids: the ids that end an answer, or the text of a hole.
        sizes: the ids with which the model changes the length of its holes; None for other models.
    """

    tokens: NDArray[np.int32]
    holes: NDArray[np.int32]
    mask_id: int
    pad_id: int
    end_ids: frozenset[int]
    sizes: SizeIds | None = None

    @classmethod
    def of(cls, prompt: Sequence[int], max_tokens: int, *, mask_id: int, pad_id: int, end_ids: frozenset[int]) -> Self:
        """A prompt followed by `max_tokens` masks."""
        return cls.around([prompt, []], [max_tokens], mask_id=mask_id, pad_id=pad_id, end_ids=end_ids)

    @classmethod
    def around(
        cls,
        texts: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        mask_id: int,
        pad_id: int,
        end_ids: frozenset[int],
        sizes: SizeIds | None = None,
    ) -> Self:
        """Texts with a hole between each and the next.

        Args:
            texts: the ids of H + 1 texts.
            lengths: the number of masks in each of the H holes.
        """
        stops = np.cumsum([len(text) + count for text, count in zip(texts, lengths, strict=False)], dtype=np.int32)
        holes = np.stack([stops - np.array(lengths, dtype=np.int32), stops], axis=1)
        tokens = [one for text, count in zip(texts, [*lengths, 0], strict=True) for one in (*text, *[mask_id] * count)]
        return cls(np.array(tokens, dtype=np.int32), holes, mask_id, pad_id, end_ids, sizes)

    @property
    def start(self) -> int:
        """The start of the first hole."""
        return int(self.holes[0, 0])

    @property
    def lengths(self) -> list[int]:
        """The tokens of each hole."""
        return (self.holes[:, 1] - self.holes[:, 0]).tolist()  # type: ignore[no-any-return]

    @property
    def texts(self) -> list[NDArray[np.int32]]:
        """The ids before, between and after the holes, int32 `[n]` each."""
        starts, stops = self.holes.T.tolist()
        return [self.tokens[a:b] for a, b in zip([0, *stops], [*starts, None], strict=True)]

    def finished(self, tokens: NDArray[np.int32]) -> bool:
        """Whether no text can change any more: every mask left stands after an end token in its own hole.

        Args:
            tokens: the canvas now, int32 `[L]`.
        """
        return not self.open_masks(tokens).any()

    def open_masks(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """The masks that belong to a text: no end token stands before them in their own hole.

        Args:
            tokens: the canvas now, int32 `[L]`.

        Returns:
            bool `[L]`.
        """
        open_masks = tokens == self.mask_id
        is_end = is_one_of(tokens, self.end_ids)
        for start, stop in self.holes:
            if is_end[start:stop].any():
                open_masks[start + is_end[start:stop].argmax() : stop] = False
        return open_masks

    def padded_out(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """A finished canvas, int32 `[L]`, with padding in place of the masks after its end tokens."""
        return np.where(tokens == self.mask_id, np.int32(self.pad_id), tokens)


def copies(canvases: Sequence[Canvas]) -> list[int]:
    """For each canvas, how many before it are equal to it: `copy` of `sampling.random_sources`."""
    texts = [one.tokens.tobytes() for one in canvases]
    return [texts[:row].count(text) for row, text in enumerate(texts)]


def is_one_of(tokens: NDArray[np.int32], ids: Iterable[int]) -> NDArray[np.bool_]:
    """Where `tokens`, of any shape, are one of a few `ids`; `np.isin` takes five times as long for few tokens."""
    found = np.zeros(tokens.shape, dtype=np.bool_)
    for id in ids:
        found |= tokens == id
    return found


def final_tokens(answer: NDArray[np.int32], mask_id: int, end_ids: Iterable[int]) -> tuple[NDArray[np.int32], bool]:
    """The tokens at the start of an answer that can no longer change.

    Args:
        answer: the canvas after the prompt, int32 `[n]`.

    Returns:
        The ids before the first mask and before the first end token; and whether an end token
        came first.
    """
    stops = np.flatnonzero((answer == mask_id) | is_one_of(answer, end_ids))
    if not len(stops):
        return answer, False
    return answer[: stops[0]], bool(answer[stops[0]] != mask_id)


def count_up_to_end(answer: NDArray[np.int32], mask_id: int, end_ids: Iterable[int]) -> tuple[int, int]:
    """How many tokens and how many masks an answer has, up to and including its end token.

    These are the useful tokens: padding after the end does not count.

    Args:
        answer: the canvas after the prompt, int32 `[n]`.
    """
    ends = np.flatnonzero(is_one_of(answer, end_ids))
    text = answer[: ends[0] + 1] if len(ends) else answer
    masks = int((text == mask_id).sum())
    return len(text) - masks, masks


def text_before(
    until: Sequence[str], prefill: str, ids: Sequence[int], text_of: Callable[[Sequence[int]], str]
) -> tuple[str, int | None]:
    """The text of a prefill and the tokens after it, up to the first of the stop texts `until`.

    Args:
        until: stop texts. One that ends inside the prefill is not looked for.
        prefill: the known start of the answer.
        ids: the tokens after the prefill.
        text_of: decodes ids.

    Returns:
        The text, and how many of `ids` it takes together with the stop text; None where no stop text occurs.
    """

    def stop_after(count: int) -> int | None:
        return _first_of(until, prefill + text_of(ids[:count]), len(prefill))

    text, needed = prefill + text_of(ids), len(ids)
    found = stop_after(needed) if until else None
    if found is None:
        return text, None
    return text[:found], bisect_left(range(needed), True, key=lambda count: stop_after(count) == found)


def _first_of(until: Sequence[str], text: str, prefill: int) -> int | None:
    """The start of the first stop text that does not end within the first `prefill` characters."""
    starts = (text.find(one, max(0, prefill - len(one) + 1)) for one in until)
    return min((start for start in starts if start >= 0), default=None)


def predictor_of(positions: NDArray[np.integer], shift: int) -> NDArray[np.int32]:
    """For each position, the position whose output predicts it: `shift` to its left.

    The first token has nothing to its left, so its own output predicts it, as in the reference decoder.

    Args:
        positions: integers, of any shape.
        shift: `DiffusionModel.shift`; 0 for a network that predicts each position at the position itself.
    """
    return np.maximum(positions - shift, 0).astype(np.int32)


def selected_first(selected: NDArray[np.bool_], at_least: int = 1) -> NDArray[np.int32]:
    """The selected positions, ascending, and others after them up to a least number.

    Args:
        selected: bool `[L]`.
        at_least: the least number of positions, as far as L allows.

    Returns:
        int32 `[R]`; no position occurs twice.
    """
    count = min(len(selected), max(at_least, int(selected.sum())))
    return np.argsort(~selected, kind="stable")[:count].astype(np.int32)
