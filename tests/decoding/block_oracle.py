"""A slow block-causal network and decoder in NumPy, which share no code with the package.

The network is a Llama, or a Qwen3 where the weights have norms of queries and keys. It computes in float64 and forwards
everything up to the end of the current block in each step. Nothing is cached, so it also tells what a cache must not change.
"""

from collections.abc import Sequence

import numpy as np


def read_weights(folder):
    """Every weight of a folder, float64, by its name in the files."""
    import mlx.core as mx

    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= mx.load(str(file))
    return {name: np.array(weight.astype(mx.float32)).astype(np.float64) for name, weight in found.items()}


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def rotated(x, base):
    """`[L, heads, head_dim]`, each token rotated by its position; the halves of a head make the pairs."""
    length, _, width = x.shape
    angles = np.arange(length)[:, None] / base ** (np.arange(0, width, 2) / width)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x[..., : width // 2], x[..., width // 2 :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Network:
    """Logits `[L, V]` of one text of `L` ids, with block-causal attention."""

    def __init__(self, config, weights):
        self.config, self.weights = config, weights
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads

    def __call__(self, ids: Sequence[int], block: int):
        at = np.arange(len(ids)) // block
        seen = at[None, :] <= at[:, None]
        x = self.weights["model.embed_tokens.weight"][list(ids)]
        for layer in range(self.config["num_hidden_layers"]):
            x = x + self.attention(self.norm(x, f"model.layers.{layer}.input_layernorm"), layer, seen)
            x = x + self.mlp(self.norm(x, f"model.layers.{layer}.post_attention_layernorm"), layer)
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return self.norm(x, "model.norm") @ head.T

    def norm(self, x, name):
        return rms(x, self.weights[f"{name}.weight"], self.config["rms_norm_eps"])

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0)

    def attention(self, x, layer, seen):
        name = f"model.layers.{layer}.self_attn"
        heads = {one: self.linear(x, f"{name}.{one}_proj").reshape(len(x), -1, self.head_dim) for one in "qkv"}
        for one in "qk":
            if f"{name}.{one}_norm.weight" in self.weights:
                heads[one] = self.norm(heads[one], f"{name}.{one}_norm")
            heads[one] = rotated(heads[one], self.config["rope_theta"])
        out = np.zeros_like(heads["q"])
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = heads["q"][:, head] @ heads["k"][:, shared].T / np.sqrt(self.head_dim)
            out[:, head] = softmax(np.where(seen, scores, -np.inf)) @ heads["v"][:, shared]
        return self.linear(out.reshape(len(x), -1), f"{name}.o_proj")

    def mlp(self, x, layer):
        name = f"model.layers.{layer}.mlp"
        gate = self.linear(x, f"{name}.gate_proj")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj")


def decode(network, prompt, max_tokens, *, block, steps, threshold, mask_id, end_ids=(), forbidden=()):
    """The whole canvas after each denoising forward.

    Args:
        steps: over the whole answer, so `steps // (max_tokens // block)` in each block.
        threshold: also commit every token that is at least so probable; None for none.
        end_ids: decoding ends behind a block in whose answer there is one of these.
    """
    canvas = [*prompt, *[mask_id] * max_tokens]
    in_block = steps // (max_tokens // block)
    history = []
    for start in range(len(prompt) // block * block, len(canvas), block):
        end = min(start + block, len(canvas))
        masks = canvas[start:end].count(mask_id)
        shares = [masks // in_block + (step < masks % in_block) for step in range(in_block)]
        while mask_id in canvas[start:end]:
            share = shares.pop(0)
            logits = network(canvas[:end], block)[start:]
            logits[:, list(forbidden)] = -np.inf
            probs = softmax(logits)
            sure = sorted((-probs[at - start].max(), at) for at in range(start, end) if canvas[at] == mask_id)
            for rank, (minus, at) in enumerate(sure):
                if rank < share or (threshold is not None and -minus >= threshold):
                    canvas[at] = int(probs[at - start].argmax())
            history.append(list(canvas))
        if set(end_ids) & set(canvas[max(start, len(prompt)) : end]):
            break
    return history
