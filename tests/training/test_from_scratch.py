"""A `config.json` to train from scratch is checked by arithmetic, before MLX sees its sizes."""

import json

import pytest
from mlx.utils import tree_flatten

from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.training.learners import from_scratch

from ..conftest import DATA

RAW = json.loads((DATA / "dream-a" / "config.json").read_text())
WIDE = {"hidden_size": 2**17, "num_attention_heads": 64, "num_key_value_heads": 64}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (WIDE, "of this shape takes .* to train"),
        ({**WIDE, "num_hidden_layers": 4096, "intermediate_size": 2**20, "vocab_size": 2**24}, "of this shape takes"),
        ({"num_hidden_layers": 4096, "intermediate_size": 2**20}, "of this shape takes"),
        ({"initializer_range": "x"}, "initializer_range"),
        ({"initializer_range": [1]}, "initializer_range"),
        ({"initializer_range": -5}, "initializer_range"),
        ({"initializer_range": float("inf")}, "initializer_range"),
        ({"initializer_range": True}, "initializer_range"),
    ],
)
def test_an_absurd_shape_is_refused(tmp_path, keys, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(RAW | keys))
    with pytest.raises(ConfigError, match=rf"config\.json: .*{message}"):
        from_scratch(path, DATA / "dream-a", seed=0)


@pytest.mark.parametrize("name", ["dream-a", "dream-b"])
def test_the_count_of_weights_is_that_of_the_network(name):
    model = from_scratch(DATA / name / "config.json", DATA / name, seed=0).model
    assert model.config.parameters == sum(value.size for _, value in tree_flatten(model.parameters()))
