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
        mask_id: the id that stands for "not decided yet".
    """

    tokens: NDArray[np.int32]
    padding: NDArray[np.int32]
    mask_id: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], max_tokens: int, *, mask_id: int, pad_id: int) -> Self:
        """Prompts of any lengths, aligned at their right ends, each followed by `max_tokens` masks."""
        longest = max(len(prompt) for prompt in prompts)
        tokens = np.full((len(prompts), longest + max_tokens), mask_id, dtype=np.int32)
        padding = np.array([longest - len(prompt) for prompt in prompts], dtype=np.int32)
        for row, prompt, pad in zip(tokens, prompts, padding, strict=True):
            row[:pad] = pad_id
            row[pad:longest] = prompt
        return cls(tokens, padding, mask_id)


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


def masked_first(masked: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The masked positions of every row as one rectangle.

    Rows with fewer masks than the fullest are filled up with known positions, so that no position
    stands twice in a row.

    Args:
        masked: bool `[B, L]`.

    Returns:
        `(positions, valid)`, int32 and bool `[B, R]`, R the most masks in a row, at least 1.
        Ascending where valid.
    """
    width = max(1, int(masked.sum(axis=1).max()))
    positions = np.argsort(~masked, axis=1, kind="stable")[:, :width].astype(np.int32)
    return positions, np.take_along_axis(masked, positions, axis=1)
