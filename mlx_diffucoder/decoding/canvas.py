"""The canvas: which positions are padding, known text and mask, and what text they make."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Canvas:
    """Token ids of a batch before denoising: left padding, then known text with holes of masks in it.

    Attributes:
        tokens: int32 `[B, L]`.
        padding: int32 `[B]`, how many tokens at the left of each row are padding.
        holes: int32 `[B, H, 2]`, where in each row each hole starts and stops, from left to right. In an
            answer's canvas the one hole is all that stands behind the prompt.
        mask_id: the id that stands for "not decided yet".
        pad_id: the id on the left of shorter rows, and behind the end of an answer or of a hole's text.
        end_ids: the ids at which an answer, or a hole's text, ends.
    """

    tokens: NDArray[np.int32]
    padding: NDArray[np.int32]
    holes: NDArray[np.int32]
    mask_id: int
    pad_id: int
    end_ids: frozenset[int]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], max_tokens: int, *, mask_id: int, pad_id: int, end_ids: frozenset[int]) -> Self:
        """Prompts of any lengths, aligned at their right ends, each followed by `max_tokens` masks."""
        lengths = [[max_tokens]] * len(prompts)
        return cls.around([[prompt, []] for prompt in prompts], lengths, mask_id=mask_id, pad_id=pad_id, end_ids=end_ids)

    @classmethod
    def around(
        cls,
        rows: Sequence[Sequence[Sequence[int]]],
        lengths: Sequence[Sequence[int]],
        *,
        mask_id: int,
        pad_id: int,
        end_ids: frozenset[int],
    ) -> Self:
        """Rows of texts, with a hole between each and the next; all have as many. Aligned at their right ends.

        Args:
            rows: of each row, the ids of its texts.
            lengths: of each row, how many masks each of its holes has.
        """
        whole = [sum(map(len, texts)) + sum(holes) for texts, holes in zip(rows, lengths, strict=True)]
        longest = max(whole)
        tokens = np.full((len(rows), longest), mask_id, dtype=np.int32)
        padding = np.array([longest - length for length in whole], dtype=np.int32)
        holes = np.zeros((len(rows), len(rows[0]) - 1, 2), dtype=np.int32)
        for row, (texts, masks) in enumerate(zip(rows, lengths, strict=True)):
            at = padding[row]
            tokens[row, :at] = pad_id
            for place, (text, count) in enumerate(zip(texts, [*masks, 0], strict=True)):
                tokens[row, at : at + len(text)] = text
                at += len(text)
                holes[row, place : place + 1] = (at, at + count)  # nothing for the last text
                at += count
        return cls(tokens, padding, holes, mask_id, pad_id, end_ids)

    @property
    def start(self) -> int:
        """Where the first hole of any row starts."""
        return int(self.holes[:, 0, 0].min())

    def finished(self, tokens: NDArray[np.int32]) -> bool:
        """Whether no text can change any more: behind its end tokens alone a hole has masks, and nothing else has any."""
        open_mask = tokens == self.mask_id
        end = np.isin(tokens, list(self.end_ids))
        for row, holes in enumerate(self.holes):
            for start, stop in holes:
                if end[row, start:stop].any():
                    open_mask[row, start + end[row, start:stop].argmax() : stop] = False
        return not open_mask.any()

    def padded_out(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """A finished canvas with padding for the masks behind its end tokens."""
        return np.where(tokens == self.mask_id, np.int32(self.pad_id), tokens)


def settled(answer: NDArray[np.int32], *, mask_id: int, end_ids: Iterable[int]) -> tuple[NDArray[np.int32], bool]:
    """The part of an answer that can no longer change, from the left.

    Args:
        answer: the canvas behind the prompt, int32 `[n]`.

    Returns:
        The ids before the first mask and before the first end token, and whether an end token
        stopped them.
    """
    stops = np.flatnonzero((answer == mask_id) | np.isin(answer, list(end_ids)))
    if not len(stops):
        return answer, False
    return answer[: stops[0]], bool(answer[stops[0]] != mask_id)


def count_up_to_end(answer: NDArray[np.int32], *, mask_id: int, end_ids: Iterable[int]) -> tuple[int, int]:
    """How many tokens and how many masks an answer has up to and with its end token.

    The tokens are the useful ones: padding behind the end does not count.
    """
    ends = np.flatnonzero(np.isin(answer, list(end_ids)))
    text = answer[: ends[0] + 1] if len(ends) else answer
    masks = int((text == mask_id).sum())
    return len(text) - masks, masks


def text_before(
    until: Sequence[str], prefill: str, ids: Sequence[int], text_of: Callable[[Sequence[int]], str]
) -> tuple[str, int | None]:
    """What a prefill and the tokens behind it spell, up to the first of `until`.

    Returns:
        The text, and how many of the tokens it and the one of `until` take; None where there is none of them.
    """

    def end(count: int) -> int | None:
        return _first_of(until, prefill + text_of(ids[:count]), len(prefill))

    text, kept = prefill + text_of(ids), len(ids)
    found = end(kept) if until else None
    if found is None:
        return text, None
    while kept and end(kept - 1) == found:
        kept -= 1
    return text[:found], kept


def _first_of(until: Sequence[str], text: str, prefill: int) -> int | None:
    """Where the first of `until` starts that does not end within the first `prefill` characters."""
    starts = (text.find(one, max(0, prefill - len(one) + 1)) for one in until)
    return min((start for start in starts if start >= 0), default=None)


def masked_first(masked: NDArray[np.bool_], least: int = 1) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The masked positions of every row as one rectangle.

    Rows with fewer masks than the fullest are filled up with known positions, so that no position
    stands twice in a row.

    Args:
        masked: bool `[B, L]`.
        least: how wide the rectangle is at least, where there are so many positions.

    Returns:
        `(positions, valid)`, int32 and bool `[B, R]`, R the most masks in a row. Ascending where valid.
    """
    width = min(masked.shape[1], max(least, int(masked.sum(axis=1).max())))
    positions = np.argsort(~masked, axis=1, kind="stable")[:, :width].astype(np.int32)
    return positions, np.take_along_axis(masked, positions, axis=1)
