"""The canvas: which positions are padding, prompt and mask, and what text they make."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Canvas:
    """Token ids of a batch before denoising: left padding, prompt, then masks.

    Attributes:
        tokens: int32 `[B, L]`.
        padding: int32 `[B]`, how many tokens at the left of each row are padding.
        start: where the answers start, behind the prompts.
        mask_id: the id that stands for "not decided yet".
        pad_id: the id on the left of shorter prompts, and behind the end of an answer.
        end_ids: the ids at which an answer ends.
    """

    tokens: NDArray[np.int32]
    padding: NDArray[np.int32]
    start: int
    mask_id: int
    pad_id: int
    end_ids: frozenset[int]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], max_tokens: int, *, mask_id: int, pad_id: int, end_ids: frozenset[int]) -> Self:
        """Prompts of any lengths, aligned at their right ends, each followed by `max_tokens` masks."""
        longest = max(len(prompt) for prompt in prompts)
        tokens = np.full((len(prompts), longest + max_tokens), mask_id, dtype=np.int32)
        padding = np.array([longest - len(prompt) for prompt in prompts], dtype=np.int32)
        for row, prompt, pad in zip(tokens, prompts, padding, strict=True):
            row[:pad] = pad_id
            row[pad:longest] = prompt
        return cls(tokens, padding, longest, mask_id, pad_id, end_ids)

    def finished(self, tokens: NDArray[np.int32]) -> bool:
        """Whether no text can change any more: every row has an end token and no mask before it."""
        mask = tokens == self.mask_id
        end = np.isin(tokens, list(self.end_ids))
        end[:, : self.start] = False  # a prompt's own
        first_end = np.where(end.any(axis=1), end.argmax(axis=1), -1)
        first_mask = np.where(mask.any(axis=1), mask.argmax(axis=1), tokens.shape[1])
        return bool((first_end >= 0).all() and (first_end < first_mask).all())

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
