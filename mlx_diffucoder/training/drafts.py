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
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..arrays import from_numpy
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .answers import OwnAnswer
from .batches import MULTIPLE
from .recompute import cross_entropies
from .trainer import Arrays

NEXT = 8  # a step of the tree commits so many tokens at most, nearly always
DECAY = 0.97  # of the weight with each mask


class Block(NamedTuple):
    """What a block is of.

    Attributes:
        known: the tokens of the answer before its masks.
        masks: how many it has.
        places: the guesses from which the tree may continue, from 0; always as many.
    """

    known: int
    masks: int
    places: Sequence[int]


class Drafts:
    """The objective for texts of one tokenizer.

    Attributes:
        tunes: the weights that it can train.
        window, rule: how what is learned is decoded; `{}` is the rule's tau.
        blocks: blocks on a canvas.
        masks: masks in a block, at most.
    """

    tunes = "lora", "full"
    window, rule = "tree:rows=32", "joint:tau={}"
    blocks, masks = 6, 16

    def __init__(self, tokenizer: Tokenizer):
        self._mask_id, self._pad_id = tokenizer.mask_id, tokenizer.pad_id

    @classmethod
    def rows(cls, text: int) -> tuple[int, int]:
        """The most tokens on a canvas with a text of `text` tokens, and its rows of logits."""
        return -(-text // MULTIPLE) * MULTIPLE + cls.blocks * (1 + cls.masks), cls.blocks * cls.masks

    def states(self, text: OwnAnswer) -> Sequence[Block]:
        """The blocks to draw from."""
        return [Block(known, self.masks, range(NEXT)) for known in range(len(text.answer))]

    def draw(self, texts: Sequence[OwnAnswer], rng: np.random.Generator) -> Arrays:
        """The arguments of `loss` for a batch of texts.

        Returns:
            tokens and positions, int32 `[B, L]`; what each token sees, bool `[B, 1, L, L]`; for N blocks the rows of their
            masks in the flattened `[B · L]`, the tokens that follow them, int32 `[N, masks]`, whether there is one, bool, and
            their places, int32 `[N, P]`.
        """
        longest, size = -(-max(map(len, texts)) // MULTIPLE) * MULTIPLE, 1 + self.masks
        shape = len(texts), longest + self.blocks * size
        tokens, positions = np.full(shape, self._pad_id, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        seen = np.repeat(np.eye(shape[1], dtype=np.bool_)[None], len(texts), axis=0)
        targets = np.full((len(texts), self.blocks, self.masks), self._pad_id, dtype=np.int32)
        is_target = np.zeros(targets.shape, dtype=np.bool_)
        places: list[Sequence[int]] = []
        for row, text in enumerate(texts):
            ids, prompt = np.concatenate([text.prompt, text.answer]), len(text.prompt)
            tokens[row, : len(ids)], positions[row, : len(ids)] = ids, np.arange(len(ids))
            seen[row, : len(ids), : len(ids)] = np.tri(len(ids), dtype=np.bool_)
            seen[row, : len(ids), :prompt] = True
            for block, (known, masks, of_block) in enumerate(_some(self.states(text), rng, self.blocks)):
                start, after = prompt + known, ids[prompt + known + 1 :][:masks]
                own = slice(longest + block * size, longest + (block + 1) * size)
                used = slice(own.start, own.start + 1 + masks)
                tokens[row, own], positions[row, own] = self._mask_id, start - 1 + np.arange(size)
                tokens[row, own.start] = ids[start - 1]
                seen[row, used, : start - 1] = seen[row, used, used] = True
                targets[row, block, : len(after)], is_target[row, block, : len(after)] = after, True
                places.append(of_block)
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
            np.array(places, dtype=np.int32),
        )
        return tuple(map(from_numpy, given))

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        """The weighted mean of the cross-entropies; the arguments are those of `draw`."""
        tokens, positions, seen, rows, targets, is_target, places = arrays
        hidden = model.model(tokens, positions, seen, None)
        read = hidden.reshape(-1, hidden.shape[-1])[rows.flatten()]
        lost = cross_entropies(model, read, targets.flatten()).reshape(rows.shape)
        weights = reached(mx.stop_gradient(lost), places) * is_target
        return (weights * lost).sum() / mx.maximum(weights.sum(), 1)


def reached(lost: mx.array, places: mx.array) -> mx.array:
    """How likely each guess is of use: `[N, masks]` from the cross-entropies `[N, masks]`.

    The probability that all guesses from some place on are right, averaged over the places `[N, P]`.
    """
    before = mx.cumsum(lost, axis=1, inclusive=False)  # minus the logarithm that all before are right
    starts = mx.take_along_axis(before, mx.minimum(places, lost.shape[1] - 1), axis=1)[..., None]
    is_after = mx.arange(lost.shape[1]) >= places[..., None]
    return mx.where(is_after, mx.exp(mx.minimum(starts - before[:, None], 0)), 0).mean(axis=1) * DECAY ** mx.arange(lost.shape[1])


def _some(blocks: Sequence[Block], rng: np.random.Generator, count: int) -> list[Block]:
    """Random ones, none twice as far as there are enough."""
    order = np.concatenate([rng.permutation(len(blocks)) for _ in range(-(-count // len(blocks)))])
    return [blocks[one] for one in order[:count]]
