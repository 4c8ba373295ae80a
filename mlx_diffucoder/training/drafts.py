"""The objective `drafts`: masks that guess what the window `tree` will verify.

A canvas is a text, then a few blocks. A block is what one forward of the tree holds of its masks: the last known token once
more, and the masks after it. It sees the text before it and itself, and nothing sees it.

    positions   prompt p p p p   answer 4 5 6 7 8 9   block 5 6 7 8 9   block 7 8 9 10 11
    tokens             k k k k          c c c c c c         c _ _ _ _         c _ _ _ _
    predicts                                                    7 8 9             9

The prompt sees itself, and an answer's token what is before it, as the tree's cache has them (there they also saw the
masks of their own forward). Each mask predicts the token after it, by cross-entropy with the model's own text. A guess is
used only if all guesses before it are right, from where the tree continues: `NEXT` places further at most. So its loss is
weighted by the probability of that, averaged over these places. The first mask is predicted by a known token, and is not
learned: with a gated adapter it stays what the base says.

Source: our own; the attention is that of `decoding.windows.tree_plan`. Weights by what is right before are also used for
drafts of speculative decoding (arXiv 2401.10774, section 2.2, a fixed decay).
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..arrays import from_numpy
from ..data import Text
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .batches import MULTIPLE
from .recompute import cross_entropies
from .trainer import Arrays

NEXT = 8  # a step of the tree commits so many tokens at most, nearly always
DECAY = 0.97  # of the weight with each mask


class Drafts:
    """The objective for texts of one tokenizer.

    Attributes:
        blocks: blocks on a canvas.
        masks: masks in a block.
    """

    blocks, masks = 6, 16

    def __init__(self, tokenizer: Tokenizer):
        self._mask_id, self._pad_id = tokenizer.mask_id, tokenizer.pad_id

    @classmethod
    def rows(cls, text: int) -> tuple[int, int]:
        """The most tokens on a canvas with a text of `text` tokens, and its rows of logits."""
        return -(-text // MULTIPLE) * MULTIPLE + cls.blocks * (1 + cls.masks), cls.blocks * cls.masks

    def draw(self, texts: Sequence[Text], rng: np.random.Generator) -> Arrays:
        """The arguments of `loss` for a batch of texts.

        Returns:
            tokens and positions, int32 `[B, L]`; what each token sees, bool `[B, 1, L, L]`; for N blocks the rows of their
            masks in the flattened `[B · L]`, the tokens that follow them, int32 `[N, masks]`, and whether there is one, bool.
        """
        longest, size = -(-max(map(len, texts)) // MULTIPLE) * MULTIPLE, 1 + self.masks
        shape = len(texts), longest + self.blocks * size
        tokens, positions = np.full(shape, self._pad_id, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        seen = np.repeat(np.eye(shape[1], dtype=np.bool_)[None], len(texts), axis=0)
        targets = np.full((len(texts), self.blocks, self.masks), self._pad_id, dtype=np.int32)
        is_target = np.zeros(targets.shape, dtype=np.bool_)
        for row, text in enumerate(texts):
            ids, prompt = np.concatenate([text.prompt, text.answer]), len(text.prompt)
            tokens[row, : len(ids)], positions[row, : len(ids)] = ids, np.arange(len(ids))
            seen[row, : len(ids), : len(ids)] = np.tri(len(ids), dtype=np.bool_)
            seen[row, : len(ids), :prompt] = True
            for block, start in enumerate(_starts(rng, len(text.answer), self.blocks) + prompt):
                own = slice(longest + block * size, longest + (block + 1) * size)
                tokens[row, own], positions[row, own] = self._mask_id, start - 1 + np.arange(size)
                tokens[row, own.start] = ids[start - 1]
                seen[row, own, : start - 1] = seen[row, own, own] = True
                after = ids[start + 1 :][: self.masks]
                targets[row, block, : len(after)], is_target[row, block, : len(after)] = after, True
        first = longest + 1 + size * np.arange(self.blocks)
        rows = (np.arange(len(texts))[:, None] * shape[1] + first)[..., None] + np.arange(self.masks, dtype=np.int32)
        flat = (-1, self.masks)
        given = (
            tokens,
            positions,
            seen[:, None],
            rows.reshape(flat).astype(np.int32),
            targets.reshape(flat),
            is_target.reshape(flat),
        )
        return tuple(map(from_numpy, given))

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        """The weighted mean of the cross-entropies; the arguments are those of `draw`."""
        tokens, positions, seen, rows, targets, is_target = arrays
        hidden = model.model(tokens, positions, seen, None)
        read = hidden.reshape(-1, hidden.shape[-1])[rows.flatten()]
        lost = cross_entropies(model, read, targets.flatten()).reshape(rows.shape)
        weights = reached(mx.stop_gradient(lost)) * is_target
        return (weights * lost).sum() / mx.maximum(weights.sum(), 1)


def reached(lost: mx.array) -> mx.array:
    """How likely each guess is of use: `[N, masks]` from the cross-entropies `[N, masks]`.

    The probability that all guesses from some place on are right, averaged over the places, the first `NEXT`.
    """
    before = mx.cumsum(lost, axis=1, inclusive=False)  # minus the logarithm that all before are right
    starts = before[:, None, :NEXT].transpose(0, 2, 1)  # [N, places, 1]
    is_after = mx.arange(lost.shape[1]) >= mx.arange(starts.shape[1])[:, None]
    return mx.where(is_after, mx.exp(mx.minimum(starts - before[:, None], 0)), 0).mean(axis=1) * DECAY ** mx.arange(lost.shape[1])


def _starts(rng: np.random.Generator, answer: int, count: int) -> NDArray[np.int64]:
    """Places of an answer of `answer` tokens where blocks begin, no place twice as far as there are enough."""
    return np.concatenate([rng.permutation(answer) for _ in range(-(-count // answer))])[:count]
