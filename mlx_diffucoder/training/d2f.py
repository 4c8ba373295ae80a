"""The objective `d2f`: predict, with block-causal attention, what the base predicts with full attention.

An answer is masked in blocks: the share of masks grows from block to block, as in a forward of the window `forcing`, where
later blocks are begun before earlier ones are full. The prompt sees itself, a block what is before it and itself. The model
learns the distribution that its base has on the same canvas, where everything sees everything.

    -1/M · Σ over masked i of  1/p · Σ over tokens v of  q(v) · log p_i(v)

with the base's q, the share p of masks in the block of i, and M answer tokens.

Source: asymmetric distillation of discrete diffusion forcing (D2F, arXiv 2508.09192, section 4.2; its public code).
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..arrays import from_numpy
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .answers import OwnAnswer
from .batches import MULTIPLE
from .learners import without_adapter
from .objective import ROWS
from .trainer import Arrays

BLOCK = 16
LEAST, MOST = 0.2, 0.7
"""The share of masks in a block."""


class D2F:
    """The objective for texts of one tokenizer."""

    tunes = ("lora",)  # without the adapter the model is its base
    window, rule = f"forcing:block={BLOCK},add=0.9,decoded=0.95", "forcing:skip={}"

    def __init__(self, tokenizer: Tokenizer):
        self._mask_id = tokenizer.mask_id

    @classmethod
    def rows(cls, text: int) -> tuple[int, int]:
        """As `Drafts.rows`, without the forward of the base, which keeps nothing."""
        return -(-text // MULTIPLE) * MULTIPLE, 2 * (-(-text // ROWS) * ROWS)

    def draw(self, texts: Sequence[OwnAnswer], rng: np.random.Generator) -> Arrays:
        """The arguments of `loss`: canvases, int32 `[B, L]`; what each token sees, bool `[B, 1, L, L]`; then for M targets,
        some of them padding, their places in the flattened canvases, and their weights.
        """
        length = -(-max(map(len, texts)) // MULTIPLE) * MULTIPLE
        tokens = np.full((len(texts), length), self._mask_id, dtype=np.int32)
        block, weights = np.zeros(tokens.shape, dtype=np.int32), np.zeros(tokens.shape, dtype=np.float32)
        for row, text in enumerate(texts):
            prompt, end = len(text.prompt), len(text)
            block[row, prompt:] = np.arange(length - prompt) // BLOCK + 1
            shares = np.sort(rng.uniform(LEAST, MOST, -(-len(text.answer) // BLOCK)))[block[row, prompt:end] - 1]
            masked = rng.random(len(shares)) < shares
            tokens[row, :end] = np.concatenate([text.prompt, np.where(masked, np.int32(self._mask_id), text.answer)])
            weights[row, prompt:end] = masked / shares
        places = np.flatnonzero(weights)
        filling = (0, -len(places) % ROWS)
        weighed = np.pad(weights.flatten()[places] / sum(len(text.answer) for text in texts), filling)
        seen = block[:, None, None, :] <= block[:, None, :, None]
        return tuple(map(from_numpy, (tokens, seen, np.pad(places, filling).astype(np.int32), weighed)))

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        """The loss; the arguments are those of `draw`."""
        tokens, seen, places, weights = arrays

        def log_probs(mask: mx.array | None) -> mx.array:  # [M, V]
            hidden = model.model(tokens, 0, mask, None)
            read = hidden.reshape(-1, hidden.shape[-1])[mx.maximum(places - model.shift, 0)]
            logits = model.logits(read[None])[0].astype(mx.float32)
            return logits - mx.logsumexp(logits, axis=-1, keepdims=True)

        with without_adapter(model):
            wanted = mx.stop_gradient(mx.exp(log_probs(None)))
        return -(weights * (wanted * log_probs(seen)).sum(axis=-1)).sum()
