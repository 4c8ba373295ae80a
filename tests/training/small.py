"""A model of a few thousand weights, and data for runs that take a second."""

import json

import mlx.core as mx

from mlx_diffucoder.models.base import ModelConfig
from mlx_diffucoder.models.transformer import DiffusionModel
from mlx_diffucoder.training.learners import Learner, from_scratch

from ..conftest import DATA

CHECKPOINT = DATA / "dream-a"
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def small_model(seed=0, vocab=40):
    mx.random.seed(seed)
    model = DiffusionModel(ModelConfig(vocab_size=vocab, mask_token_id=1, **SMALL))
    mx.eval(model.parameters())
    return model


def small_config(folder, **changes):
    """`dream-a`'s `config.json` with a smaller network."""
    path = folder / "small.json"
    path.write_text(json.dumps({**json.loads((CHECKPOINT / "config.json").read_text()), **SMALL, **changes}))
    return path


def small_learner(folder, **changes) -> Learner:
    return from_scratch(small_config(folder, **changes), CHECKPOINT, 0)


def small_checkpoint(folder, **changes):
    """A folder with a small untrained model and `dream-a`'s tokenizer."""
    learner = small_learner(folder, **changes)
    out = folder / "small"
    out.mkdir()
    learner.write(out, learner.model)
    return out


def write_rows(path, count=12):
    """Small functions, as prompts and completions."""
    rows = [{"prompt": f"Add {i}", "completion": f"y = x\ny = {i}\n"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
