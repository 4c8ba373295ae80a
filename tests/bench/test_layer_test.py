"""The doctor's layer of the 7B's shape: what is right passes, and what is wrong at some rows is named."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder.bench import layer_test as checks
from mlx_diffucoder.bench.environment import PAGES, SWAP, WIRED, environment, free_bytes, weights_of
from mlx_diffucoder.bench.subjects import drawn
from mlx_diffucoder.models.transformer import DiffusionModel

from ..conftest import DATA
from ..test_loading import save_as_mlx_lm

SMALL = replace(
    checks.LAYER, hidden_size=64, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, vocab_size=64, head_dim=32
)


def test_the_layer_is_the_7bs_and_the_float32_network_is_the_models():
    assert (checks.LAYER.hidden_size, checks.LAYER.intermediate_size, checks.LAYER.num_hidden_layers) == (3584, 18944, 1)
    model = drawn(SMALL, 4, "bfloat16")
    tokens = [np.arange(rows) for rows in (1, 7, 40)]
    right = checks.expected(model, tokens)
    model.set_dtype(mx.float32)
    for ids, logits in zip(tokens, right, strict=True):
        assert np.abs(np.array(model(mx.array(ids[None]))[0]) - logits).max() < 1e-4 * np.abs(logits).max()


@pytest.fixture
def fast(monkeypatch):
    """As on a GPU, where 16 bits are fast."""
    monkeypatch.setattr(checks, "on_gpu", lambda: True)
    monkeypatch.setattr(checks, "ALLOWED", {dtype: 2 * allowed for dtype, allowed in checks.ALLOWED.items()})


def test_every_type_is_checked_at_every_number_of_rows(fast):
    found = list(checks.layer_test(SMALL))
    assert [(check.right, check.name) for check in found] == [
        (True, f"7B's layer, {bits} bits in {dtype}, 1 to 128 rows") for bits in (4, 8) for dtype in ("bfloat16", "float16")
    ]


@pytest.mark.parametrize(("rows", "value"), [(1, 1.5), (33, 1.5), (8, float("nan"))])
def test_a_kernel_that_is_wrong_at_some_rows_is_named_with_them(fast, monkeypatch, rows, value):
    plain = DiffusionModel.__call__

    def wrong(self, tokens, **options):
        logits = plain(self, tokens, **options)
        return logits * value if tokens.shape[1] == rows else logits

    monkeypatch.setattr(DiffusionModel, "__call__", wrong)
    monkeypatch.setattr(checks, "ROWS", (1, 8, 33))
    found = list(checks.layer_test(SMALL))
    assert not any(check.right for check in found)
    assert all(check.name.endswith(f"at {rows} rows") for check in found)
    json.dumps([check.to_dict() for check in found])


def test_on_a_cpu_one_row_is_tried():
    assert [check.name.rpartition(", ")[2] for check in checks.layer_test(SMALL)] == ["1 row"] * 4


@pytest.mark.slow
def test_the_real_layer_is_right_and_takes_less_than_2_gb():
    mx.reset_peak_memory()
    assert all(check.right for check in checks.layer_test())
    assert mx.get_peak_memory() < 2e9


def test_a_mac_reports_its_limits_and_another_machine_leaves_them_out(monkeypatch):
    said = {
        WIRED: "12288\n",
        SWAP: "total = 2048.00M  used = 1024.50M  free = 1023.50M  (encrypted)\n",
        PAGES: "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:                  1000.\n",
    }
    found = environment(said.__getitem__)
    assert (found["wired_limit_mb"], found["free_bytes"]) == (12288, 16_384_000)
    assert found["swap"].startswith("total = 2048.00M")
    found = environment(lambda command: "")
    assert (found["wired_limit_mb"], found["swap"]) == (None, None)
    assert free_bytes("nonsense") is None or free_bytes("nonsense") > 0


def test_a_checkpoints_bits_and_scales_come_from_its_headers(tmp_path):
    folder, _ = save_as_mlx_lm(tmp_path, DATA / "dream-a")
    found = weights_of(str(folder))
    assert (found["bits"], found["modes"], found["scales"]) == ([4], ["affine"], ["float32"])
    assert weights_of("nobody/nothing") is None
    (folder / "config.json").write_text("{}")
    assert str(folder) in weights_of(str(folder))["problem"]
