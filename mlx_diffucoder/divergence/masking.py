"""Canvases with part of an answer masked, in pairs of complementary masks.

The pairs are those of the coupled estimator (DiffuCoder, arXiv 2506.20639, section 4): a pair masks every
token of an answer exactly once, so every token counts equally often.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data import Text

RATIOS = (0.25, 0.5, 0.75, 1.0)
MOST_POSITIONS = 4096  # forwarded together; a longer canvas is forwarded alone


@dataclass(frozen=True, eq=False)
class Masked:
    """A text with some of its answer masked.

    Attributes:
        text: index of the text, from 0.
        ratio: the requested share of masked answer tokens.
        tokens: int32 `[L]`, the canvas.
        positions: int32 `[n]`, the masked positions, ascending; never empty, and never position 0.
        targets: int32 `[n]`, the original ids at these positions.
    """

    text: int
    ratio: float
    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    targets: NDArray[np.int32]

    @property
    def clean(self) -> NDArray[np.int32]:
        """The canvas without masks, int32 `[L]`."""
        clean = self.tokens.copy()
        clean[self.positions] = self.targets
        return clean


def masked_canvases(
    texts: Sequence[Text], mask_id: int, *, ratios: Sequence[float] = RATIOS, draws: int = 1, seed: int = 0
) -> list[Masked]:
    """For each text, `draws` pairs of complementary masks for each ratio and its complement.

    Ratios 0.25 and 0.75 form one pair, so asking for either gives both. Ratio 1 masks the whole answer; its
    complement masks nothing and is left out, as is any canvas too short for its ratio.

    Args:
        ratios: above 0 and at most 1.
        seed: seeds the masks. The masks of a text do not depend on the number of texts.
    """
    smaller = sorted({round(min(ratio, 1 - ratio), 9) for ratio in ratios})
    canvases = []
    for index, text in enumerate(texts):
        rng = np.random.default_rng([seed, index])
        for ratio in smaller:
            for _ in range(draws if ratio else 1):  # only one way to mask everything
                order = rng.permutation(len(text.answer))
                count = round(ratio * len(order))
                for share, chosen in ((ratio, order[:count]), (round(1 - ratio, 9), order[count:])):
                    if len(chosen):
                        canvases.append(_masked(index, text, share, np.sort(chosen), mask_id))
    return canvases


def _masked(index: int, text: Text, ratio: float, chosen: NDArray[np.int64], mask_id: int) -> Masked:
    tokens = np.concatenate([text.prompt, text.answer], dtype=np.int32)
    positions = (len(text.prompt) + chosen).astype(np.int32)
    targets = tokens[positions]
    tokens[positions] = mask_id
    return Masked(index, ratio, tokens, positions, targets)


def batches(canvases: Sequence[Masked], most: int = MOST_POSITIONS) -> Iterator[list[Masked]]:
    """Group neighbours of equal length, at most `most` positions a batch, so that no batch needs padding."""
    batch: list[Masked] = []
    for canvas in canvases:
        length = len(canvas.tokens)
        if batch and (length != len(batch[0].tokens) or (len(batch) + 1) * length > most):
            yield batch
            batch = []
        batch.append(canvas)
    if batch:
        yield batch
