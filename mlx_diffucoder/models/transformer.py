"""The Dream transformer: Qwen2 with full bidirectional attention.

Modules carry the names of the Hugging Face checkpoint, so that loading and converting move
arrays without renaming any. The model knows nothing of masks, canvases or decoding: logits at
row i are what the network puts out at i, and it is the decoder that reads them one row to the
left (DiffuCoder's shift).

Source: Dream 7B (arXiv 2508.15487) on Qwen2 (arXiv 2407.10671), sections on architecture.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from .base import ModelConfig

Positions = int | mx.array


class KeyValues(Protocol):
    """K/V kept by a caller between forwards: what the layers of this forward attend to.

    Each layer hands over the keys and values of the tokens being forwarded and attends to what it
    gets back. What is kept, and for how long, is the caller's business.
    """

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take `[B, kv_heads, L, head_dim]`, rotated already; return `[B, kv_heads, L', head_dim]`."""
        ...


LayerKV = list[tuple[mx.array, mx.array]]
"""Keys and values of each layer, `[B, kv_heads, P, head_dim]`."""


class PositionedKVCache:
    """`KeyValues` that stand in places: those of the tokens being forwarded overwrite what was there.

    Args:
        at: int `[B, L]`, the place of each token.
        count: places there are to be, P.
        layers: what stood there before, in fewer places or as many; empty for nothing.
    """

    def __init__(self, at: mx.array, count: int, layers: LayerKV):
        self._at, self._count, self._before = at[:, None, :, None], count, layers
        self.layers: LayerKV = []

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        before = self._before[layer] if self._before else (keys[:, :, :0], values[:, :, :0])
        self.layers.append((self._put(before[0], keys), self._put(before[1], values)))
        return self.layers[layer]

    def _put(self, kept: mx.array, fresh: mx.array) -> mx.array:
        kept = mx.pad(kept, [(0, 0), (0, 0), (0, self._count - kept.shape[2]), (0, 0)])
        return mx.put_along_axis(kept, mx.broadcast_to(self._at, fresh.shape), fresh, axis=2)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.rope_theta = config.rope_theta
        width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, width, bias=True)
        self.k_proj = nn.Linear(width, kv_width, bias=True)
        self.v_proj = nn.Linear(width, kv_width, bias=True)
        self.o_proj = nn.Linear(width, width, bias=False)

    def __call__(self, x: mx.array, layer: int, positions: Positions, mask: mx.array | None, kv: KeyValues | None) -> mx.array:
        B, L, D = x.shape  # x: [B, L, D]
        queries = self._rotate(self.q_proj(x).reshape(B, L, self.heads, -1), positions)  # [B, heads, L, head_dim]
        keys = self._rotate(self.k_proj(x).reshape(B, L, self.kv_heads, -1), positions)
        values = self.v_proj(x).reshape(B, L, self.kv_heads, -1).transpose(0, 2, 1, 3)
        if kv is not None:
            keys, values = kv.update(layer, keys, values)
        out = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.head_dim**-0.5, mask=mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, L, D))

    def _rotate(self, x: mx.array, positions: Positions) -> mx.array:
        """`[B, L, heads, head_dim]` -> `[B, heads, L, head_dim]`, turned by the positions."""
        B, L, heads, dim = x.shape
        turn = partial(mx.fast.rope, dims=dim, traditional=False, base=self.rope_theta, scale=1.0)
        if isinstance(positions, int) or positions.ndim == 1:
            return turn(x.transpose(0, 2, 1, 3), offset=positions)
        # The kernel takes one offset a row: every token becomes a row of its own.
        turned = turn(x.reshape(B * L, heads, 1, dim), offset=positions.reshape(-1))
        return turned.reshape(B, L, heads, dim).transpose(0, 2, 1, 3)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, layer: int, positions: Positions, mask: mx.array | None, kv: KeyValues | None) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), layer, positions, mask, kv)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Layer(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, tokens: mx.array, positions: Positions, mask: mx.array | None, kv: KeyValues | None) -> mx.array:
        x = self.embed_tokens(tokens)  # [B, L, D]
        for index, layer in enumerate(self.layers):
            x = layer(x, index, positions, mask, kv)
        return x


class DiffusionModel(nn.Module):
    """The network: token ids in, logits out."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._window: Callable[..., tuple[mx.array, LayerKV]] | None = None

    @property
    def layers(self) -> list[Layer]:
        """The transformer's layers, where mlx-lm's helpers look for them."""
        return self.model.layers

    def __call__(
        self,
        tokens: mx.array,
        *,
        rows: mx.array | None = None,
        positions: Positions = 0,
        mask: mx.array | None = None,
        kv: KeyValues | None = None,
    ) -> mx.array:
        """Forward `tokens` and return the logits of the rows that are asked for.

        Args:
            tokens: ids, int `[B, L]`.
            rows: int `[B, R]`, which of the L rows to put through `lm_head`; None is all.
            positions: where the tokens stand in their text: the position of the first, for all
                rows or one a row `[B]`, or that of every token `[B, L]`. `left_padded` gives
                those of padded rows.
            mask: bool, broadcast to `[B, heads, L, L']`, which keys each token may attend to; None
                is all of them.
            kv: a caller's keys and values; see `KeyValues`. None attends to `tokens` alone.

        Returns:
            Logits `[B, R, V]` (`[B, L, V]` for all rows), in the dtype of the weights.
        """
        return self.logits(self.model(tokens, positions, mask, kv), rows)

    def logits(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        """The logits of `rows` `[B, R]` of what the layers put out, `hidden` `[B, L, D]`; None is all."""
        if rows is not None:
            hidden = mx.take_along_axis(hidden, rows[..., None], axis=1)  # [B, R, D]
        hidden = self.model.norm(hidden)
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.as_linear(hidden)
        return self.lm_head(hidden)

    def window(
        self, tokens: mx.array, positions: mx.array, mask: mx.array, at: mx.array, kept: LayerKV
    ) -> tuple[mx.array, LayerKV]:
        """Forward some tokens of a canvas among the keys and values kept of others.

        On a GPU this is compiled, once for each shape.

        Args:
            tokens, positions: int `[B, L]`.
            mask: bool `[B, 1, 1, P]`, which places may be attended to.
            at: int `[B, L]`, the place of each token.
            kept: as `PositionedKVCache` has it.

        Returns:
            What the layers put out, `[B, L, D]`, for `logits`; and what is kept now.
        """
        if self._window is None:
            self._window = fused(self._window_plainly, inputs=self)
        return self._window(tokens, positions, mask, at, kept)

    def _window_plainly(
        self, tokens: mx.array, positions: mx.array, mask: mx.array, at: mx.array, kept: LayerKV
    ) -> tuple[mx.array, LayerKV]:
        places = PositionedKVCache(at, mask.shape[-1], kept)
        return self.model(tokens, positions, mask, places), places.layers

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Drop what a checkpoint may carry and the network has no use for (mlx-lm's hook)."""
        return {name: value for name, value in weights.items() if not self.ignores(name)}

    def ignores(self, name: str) -> bool:
        """Whether a weight of this name is known and not needed: RoPE tables, a tied `lm_head`."""
        tied = self.config.tie_word_embeddings and name.startswith("lm_head.")
        return tied or name.endswith("rotary_emb.inv_freq")


def fused(function: Callable[..., Any], inputs: Any = None) -> Callable[..., Any]:
    """`function` compiled by MLX, on a GPU; as it is on a CPU, where that takes a C++ compiler and seconds."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return function
    return mx.compile(function, inputs=inputs)


def left_padded(padding: mx.array, length: int) -> tuple[mx.array, mx.array]:
    """Positions `[B]` and mask `[B, 1, 1, length]` of rows whose first `padding` `[B]` tokens are padding.

    Only keys are masked: a padding token's own output is read by nobody, and leaving it finite
    keeps it from poisoning the sum over values.
    """
    return -padding, (mx.arange(length) >= padding[:, None])[:, None, None, :]
