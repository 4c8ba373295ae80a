"""The network: a transformer in which every token attends to every other, or a block to the blocks before it.

The modules have the names of the Hugging Face checkpoint, so that loading and converting rename nothing. The network
knows nothing of masks, canvases or decoding. Its logits at row i are what it computes there; the decoder reads the
logits of position i at row i - `shift`.

Letters in the shapes: B rows of a batch, L tokens forwarded, S slots of the cache, D hidden size, V vocabulary.

What differs between families is in `ModelConfig`: biases, norms of queries and keys, the width of a head, blocks.

Source: Qwen2 (arXiv 2407.10671) and Qwen3 (arXiv 2505.09388), made bidirectional as in Dream 7B (arXiv 2508.15487).
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from ..device import on_gpu
from .attend import attend
from .base import Family, ModelConfig
from .dream import DREAM
from .kv import Cache, KeyValues, LayerKV, PackedTexts, moved, updated
from .rotary import Positions, Turns, angles, of_rows, rotate


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; q, k and v may have biases and q and k norms, o has neither."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.rope_theta = config.rope_theta
        width, q_width, kv_width = config.hidden_size, self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(width, q_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_width, width, bias=False)
        self.has_norms = config.qk_norm
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def __call__(
        self, x: mx.array, layer: int, positions: Turns, mask: mx.array | None, kv: Cache, rows: mx.array | None = None
    ) -> mx.array:
        """`[B, L, D]` -> `[B, L, D]`; the arguments as in `Backbone.__call__`."""
        B, L, _ = x.shape
        asking, at = x, positions
        if rows is not None:
            asking, at = x[:, rows], of_rows(positions, rows)
            mask = mask[..., rows, :] if mask is not None and mask.shape[-2] > 1 else mask
        R = asking.shape[1]
        queries = self.q_proj(asking).reshape(B, R, self.heads, -1)
        keys = self.k_proj(x).reshape(B, L, self.kv_heads, -1)
        if self.has_norms:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        # [B, heads, L, head_dim]
        queries, keys = rotate(queries, at, self.rope_theta), rotate(keys, positions, self.rope_theta)
        values = self.v_proj(x).reshape(B, L, self.kv_heads, -1).transpose(0, 2, 1, 3)
        if isinstance(kv, PackedTexts):
            out = kv.attend(layer, queries, keys, values)
        else:
            out = attend(queries, *updated(kv, layer, keys, values), mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, R, -1))


class MLP(nn.Module):
    """SwiGLU: `[B, L, D]` -> `[B, L, D]`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        gated = _swiglu if on_gpu() else swiglu
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x)))


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """SiLU of `gate`, times `up`."""
    return nn.silu(gate) * up


# On a GPU one kernel does both, and it is compiled once for all shapes: a whole forward would be traced again for each, and
# a compiled method keeps its model alive. On a CPU compiling takes a C++ compiler and seconds.
_swiglu = mx.compile(swiglu, shapeless=True)


class Layer(nn.Module):
    """Attention and MLP, each after a norm and added to its input: `[B, L, D]` -> `[B, L, D]`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(
        self, x: mx.array, layer: int, positions: Turns, mask: mx.array | None, kv: Cache, rows: mx.array | None = None
    ) -> mx.array:
        attended = self.self_attn(self.input_layernorm(x), layer, positions, mask, kv, rows)
        x = (x if rows is None else x[:, rows]) + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embeddings and layers: ids `[B, L]` -> hidden states `[B, L, D]`, before the last norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim, self.rope_theta = config.head_dim, config.rope_theta
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Layer(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(
        self, tokens: mx.array, positions: Positions, mask: mx.array | None, kv: Cache, rows: mx.array | None = None
    ) -> mx.array:
        """The arguments as in `DiffusionModel.__call__`, and `rows` `[R]`, which the last layer is computed for: `[B, R, D]`.

        With `rows`, `kv` is no `PackedTexts`. None computes all.
        """
        x = self.embed_tokens(tokens)
        at = positions if on_gpu() else angles(positions, x.shape[1], self.head_dim, self.rope_theta)
        for index, layer in enumerate(self.layers[:-1]):
            x = layer(x, index, at, mask, kv)
        return self.layers[-1](x, len(self.layers) - 1, at, mask, kv, rows)


class DiffusionModel(nn.Module):
    """The network: token ids in, logits out.

    Args:
        config: its shape.
        family: the family that it belongs to.

    Attributes:
        published: the decoding that its publisher states, for the preset `published`.
        widen: where the weights were narrowed to float16, a function that puts those of the checkpoint back into the model.
    """

    def __init__(self, config: ModelConfig, family: Family = DREAM):
        super().__init__()
        self.config, self.family = config, family
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.published = family.published("")
        self.widen: Callable[[DiffusionModel], None] | None = None

    @property
    def layers(self) -> list[Layer]:
        """The transformer's layers, under the name that mlx-lm's functions use."""
        return self.model.layers

    @property
    def shift(self) -> int:
        """How far left of a position its prediction is: the logits at row i - shift are those of position i."""
        return self.family.shift

    def __call__(
        self,
        tokens: mx.array,
        *,
        rows: mx.array | None = None,
        positions: Positions = 0,
        mask: mx.array | None = None,
        kv: KeyValues | None = None,
        block_length: int | None = None,
    ) -> mx.array:
        """Forward `tokens` and return the logits of some rows.

        Args:
            tokens: ids, int `[B, L]`.
            rows: int `[B, R]`, the rows of the L to put through `lm_head`; None for all.
            positions: where the tokens are in their text: the position of the first token, one for all rows or
                one a row `[B]`, or the position of every token `[B, L]`. For padded rows see `left_padded`.
            mask: bool, broadcast to `[B, heads, L, S]`, the keys that each token may attend to; None for those of the
                family: without a cache `block_mask`, for tokens from position 0 on; with one all.
            kv: a cache, see `KeyValues`. None attends to `tokens` alone, and S is L.
            block_length: replaces the configuration's; 0 is full attention.

        Returns:
            Logits `[B, R, V]` (`[B, L, V]` for all rows), in the dtype of the weights.
        """
        if mask is None and kv is None:
            mask = block_mask(tokens.shape[1], self.config.block_length if block_length is None else block_length)
        return self.logits(self.model(tokens, positions, mask, kv), rows)

    def logits(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        """Logits `[B, R, V]` of the given rows `[B, R]` of hidden states `[B, L, D]`; None for all rows."""
        if rows is not None:
            hidden = mx.take_along_axis(hidden, rows[..., None], axis=1)  # [B, R, D]
        hidden = self.model.norm(hidden)
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.as_linear(hidden)
        return self.lm_head(hidden)

    def moved(self, layers: LayerKV, pieces: Sequence[Sequence[int]], size: int) -> LayerKV:
        """The K/V of a text that has pieces of another one, as `kv.moved` gives them."""
        return moved(layers, pieces, size, self.config.rope_theta)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """A checkpoint's weights under the network's names, without those it has no use for (mlx-lm's hook)."""
        names = {name: self.family.weight_name(name, self.config) for name in weights}
        return {new: weights[name] for name, new in names.items() if new is not None}


def block_mask(length: int, block_length: int) -> mx.array | None:
    """Block-causal attention from position 0 on: bool `[length, length]`, the keys of each token; None where it sees all.

    A token sees its own block, which has `block_length` positions, and the blocks before it.
    """
    if not block_length:
        return None
    block = mx.arange(length) // block_length
    return block[:, None] >= block


def left_padded(padding: mx.array, length: int) -> tuple[mx.array, mx.array]:
    """Positions `[B]` and mask `[B, 1, 1, length]` of rows whose first `padding` `[B]` tokens are padding.

    Only keys are masked. Nothing reads the output of a padding token, and a finite one adds no NaN to the sum over
    values.
    """
    return -padding, (mx.arange(length) >= padding[:, None])[:, None, None, :]
