"""Gated adapters: LoRA that acts on the rows of masks only.

Known tokens go through the weights of the base alone. So a forward without masks computes what the base computes, bit by
bit, and so do the keys, values and logits of known tokens that attend to no mask. Known tokens that attend to masks use
the base's weights too, but meet the masks' changed keys and values from the second layer on.

Source: gated LoRA for multi-token prediction (Samragh et al. 2025, arXiv 2507.11851).
"""

import mlx.core as mx
from mlx_lm.tuner.lora import LoRALinear

from .models.kv import Cache
from .models.rotary import Positions
from .models.transformer import Backbone, DiffusionModel


class Gate:
    """Which rows of the forward that is being computed are masks: bool `[B, L, 1]`."""

    masks: mx.array


class GatedLoRA(LoRALinear):
    """LoRA on the rows of masks: `[B, L, in]` -> `[B, L, out]`."""

    gate: Gate

    def __call__(self, x: mx.array) -> mx.array:
        change = self.scale * ((self.dropout(x) @ self.lora_a) @ self.lora_b)
        return self.linear(x) + mx.where(self.gate.masks, change, 0).astype(x.dtype)


class GatedBackbone(Backbone):
    """A backbone with `GatedLoRA` layers."""

    gate: Gate
    mask_id: int

    def __call__(
        self, tokens: mx.array, positions: Positions, mask: mx.array | None, kv: Cache, rows: mx.array | None = None
    ) -> mx.array:
        """As `Backbone.__call__`. The last layer computes all rows, those that the gate was set for."""
        self.gate.masks = (tokens == self.mask_id)[..., None]
        hidden = super().__call__(tokens, positions, mask, kv)
        return hidden if rows is None else hidden[:, rows]


def gate_adapters(model: DiffusionModel) -> None:
    """Gate the LoRA layers of a model."""
    gate = Gate()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.__class__ = GatedLoRA
            module.gate = gate
    model.model.__class__ = GatedBackbone
    model.model.gate, model.model.mask_id = gate, model.config.mask_token_id
