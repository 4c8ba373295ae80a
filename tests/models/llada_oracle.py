"""LLaDA's forward and its decoder in NumPy, from its publisher's names and conventions; it shares no code with the package."""

import numpy as np


def forward(config, weights, tokens):
    """Logits `[L, V]` of a canvas `[L]`, in float64."""
    top, heads, kv_heads = "model.transformer", config["n_heads"], config["n_kv_heads"]
    width = config["d_model"] // heads
    x = weights[f"{top}.wte.weight"][tokens]
    for number in range(config["n_layers"]):
        part = {name.split(".")[4]: one for name, one in weights.items() if name.startswith(f"{top}.blocks.{number}.")}
        seen = norm(x, part["attn_norm"], config["rms_norm_eps"])
        q, k, v = (
            (seen @ part[f"{one}_proj"].T).reshape(len(tokens), count, width).transpose(1, 0, 2)
            for one, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        q, k = rotate(q, config["rope_theta"]), rotate(k, config["rope_theta"])
        k, v = (np.repeat(one, heads // kv_heads, axis=0) for one in (k, v))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(width)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out = (shares / shares.sum(axis=-1, keepdims=True)) @ v
        x = x + out.transpose(1, 0, 2).reshape(len(tokens), -1) @ part["attn_out"].T
        seen = norm(x, part["ff_norm"], config["rms_norm_eps"])
        gate = seen @ part["ff_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (seen @ part["up_proj"].T)) @ part["ff_out"].T
    return norm(x, weights[f"{top}.ln_f.weight"], config["rms_norm_eps"]) @ weights[f"{top}.ff_out.weight"].T


def norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def rotate(x, base):
    """`[heads, L, width]`: dimension i turns with dimension i + width / 2."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] / base ** (np.arange(half) / half)
    cos, sin = np.cos(angles), np.sin(angles)
    one, two = x[..., :half], x[..., half:]
    return np.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)


def decode(config, weights, prompt, length, block, allowed):
    """Low confidence, one token a step, one block after another: yields the canvas after each step."""
    canvas = np.array([*prompt, *[config["mask_token_id"]] * length])
    for start in range(len(prompt), len(canvas), block):
        for _ in range(block):
            logits = np.where(allowed, forward(config, weights, canvas), -np.inf)
            chosen = logits.argmax(axis=-1)
            shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
            sure = 1 / shares.sum(axis=-1)  # the probability of the chosen token; row i is of position i
            free = (canvas == config["mask_token_id"]) & (np.arange(len(canvas)) < start + block)
            at = np.where(free, sure, -1).argmax()
            canvas[at] = chosen[at]
            yield canvas.copy()
