"""The objective `dparallel`: right predictions of masks become surer, so that a rule commits more of them at once.

Half of an answer's tokens are masked, and on a second canvas the other half. All that follows the answer is masked on both. The
loss is the mean cross-entropy of the masked tokens, plus the mean entropy, at temperature 0.5, of those that are predicted right
already.

Source: certainty-forcing distillation (dParallel, arXiv 2509.26488; its public code), without its random share of masks.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..arrays import from_numpy
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from .answers import OwnAnswer
from .batches import MULTIPLE
from .objective import ROWS
from .trainer import Arrays

TEMPERATURE = 0.5


class DParallel:
    """The objective for texts of one tokenizer."""

    tunes = "lora", "full"
    window, rule = "tree:rows=32", "joint:tau={}"

    def __init__(self, tokenizer: Tokenizer):
        self._mask_id = tokenizer.mask_id

    @classmethod
    def rows(cls, text: int) -> tuple[int, int]:
        """As `Drafts.rows`, for both canvases together."""
        return 2 * (-(-text // MULTIPLE) * MULTIPLE), -(-text // ROWS) * ROWS

    def draw(self, texts: Sequence[OwnAnswer], rng: np.random.Generator) -> Arrays:
        """The arguments of `loss`: canvases, int32 `[2B, L]`; then for M targets, some of them padding, their
        places in the flattened canvases, their ids, and 1 or, for padding, 0.
        """
        length = -(-max(map(len, texts)) // MULTIPLE) * MULTIPLE
        clean = np.full((len(texts), length), self._mask_id, dtype=np.int32)
        learnt = np.zeros(clean.shape, dtype=np.bool_)
        for row, text in enumerate(texts):
            clean[row, : len(text)] = np.concatenate([text.prompt, text.answer])
            learnt[row, len(text.prompt) : len(text)] = True
        half = rng.random(learnt.shape) < 0.5
        masked = np.concatenate([learnt & half, learnt & ~half])
        clean = np.concatenate([clean, clean])
        places = np.flatnonzero(masked)
        filling = (0, -len(places) % ROWS)
        weights = np.pad(np.ones(len(places), np.float32), filling)
        tokens = np.where(masked, np.int32(self._mask_id), clean)
        targets = np.pad(clean.flatten()[places], filling)
        return tuple(map(from_numpy, (tokens, np.pad(places, filling).astype(np.int32), targets, weights)))

    def loss(self, model: DiffusionModel, *arrays: mx.array) -> mx.array:
        """The loss; the arguments are those of `draw`."""
        tokens, places, targets, weights = arrays
        hidden = model.model(tokens, 0, None, None)
        read = hidden.reshape(-1, hidden.shape[-1])[mx.maximum(places - model.shift, 0)]
        logits = model.logits(read[None])[0].astype(mx.float32)  # [M, V]
        right = weights * (logits.argmax(axis=-1) == targets)
        sharp = logits / TEMPERATURE
        logs = sharp - mx.logsumexp(sharp, axis=-1, keepdims=True)
        entropy = -(mx.exp(logs) * logs).sum(axis=-1)
        found = (weights * nn.losses.cross_entropy(logits, targets)).sum() / mx.maximum(weights.sum(), 1)
        return found + (right * entropy).sum() / mx.maximum(right.sum(), 1)
