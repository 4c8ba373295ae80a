"""A model from nothing: a configuration, a tokenizer's folder, random weights; and a trained model as a folder."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..config import ModelConfig, read_json
from ..errors import CheckpointError, ConfigError
from ..model import Dream
from ..tokenizer import Tokenizer

DEVIATION = 0.02  # Qwen2's initializer_range
COPIED = (
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


def from_scratch(path: Path, tokenizer_folder: Path, seed: int) -> tuple[Dream, Tokenizer, dict[str, Any]]:
    """The model that a `config.json` describes, with random weights in float32, and the tokenizer of a folder.

    Raises:
        ConfigError, CheckpointError: either cannot be read, or the tokenizer has ids that the model lacks.
    """
    raw = read_json(path)
    try:
        config = ModelConfig.from_dict(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    tokenizer = Tokenizer.load(tokenizer_folder, raw)
    if (most := int(tokenizer.known_ids.max())) >= config.vocab_size:
        raise CheckpointError(f"{path}: vocab_size is {config.vocab_size}, and {tokenizer_folder} has the id {most}")
    model = Dream(config)
    _initialize(model, float(raw.get("initializer_range") or DEVIATION), mx.random.key(seed))
    return model, tokenizer, raw


def _initialize(model: Dream, deviation: float, key: mx.array) -> None:
    """Normal weights, narrower where a layer adds to the residual stream (GPT-2, section 2.3); norms 1, biases 0."""
    residual = deviation / math.sqrt(2 * model.config.num_hidden_layers)
    weights = []
    parameters: Any = tree_flatten(model.parameters())
    for (name, value), own in zip(parameters, mx.random.split(key, len(parameters)), strict=True):
        if value.ndim == 1:
            weights.append((name, mx.zeros_like(value) if name.endswith("bias") else mx.ones_like(value)))
        else:
            scale = residual if "o_proj" in name or "down_proj" in name else deviation
            weights.append((name, mx.random.normal(value.shape, scale=scale, key=own)))
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())


class ModelWriter:
    """Writes a model as a folder in the Hub's layout: weights, `config.json`, the tokenizer's files."""

    def __init__(self, settings: dict[str, Any], tokenizer: Tokenizer, source: Path):
        self._settings, self._tokenizer, self._source = settings, tokenizer, source

    def __call__(self, folder: Path, model: nn.Module) -> None:
        from mlx_lm.utils import save_config, save_model

        save_model(save_path=folder, model=model, donate_model=False)
        save_config(config=dict(self._settings), config_path=folder / "config.json")
        self._tokenizer.save(folder)
        for name in COPIED:
            if (self._source / name).exists():
                (folder / name).write_bytes((self._source / name).read_bytes())


def settings_of(model: Dream, raw: dict[str, Any]) -> dict[str, Any]:
    """`config.json` of a trained model: as it was, with the type that its weights have."""
    dtype = str(model.model.norm.weight.dtype).removeprefix("mlx.core.")
    return json.loads(json.dumps({**raw, "torch_dtype": dtype}))
