"""Memory is checked before weights are read, against what a program may use; Metal's wired limit is set once, where it helps."""

from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_diffucoder import load, memory
from mlx_diffucoder.errors import CheckpointError

from .conftest import DATA

GB = 10**9
SEVEN = 7_615_616_512


@pytest.fixture
def mac(monkeypatch):
    """A Mac whose Metal recommends 5.3 GB; returns the wired limits that were set."""
    limits = []
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: SimpleNamespace(type=mx.DeviceType.gpu))
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": int(5.3 * GB), "memory_size": 8 * GB})
    monkeypatch.setattr(mx, "set_wired_limit", limits.append)
    monkeypatch.delenv(memory.NO_WIRED, raising=False)
    memory._set_wired_limit.cache_clear()
    yield limits
    memory._set_wired_limit.cache_clear()


def test_the_limit_is_what_metal_recommends_a_gpus_memory_or_the_machines(mac, monkeypatch):
    assert memory.working_set() == 5.3 * GB
    monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": 80 * GB})
    assert memory.working_set() == 80 * GB
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    assert memory.working_set() == memory.memory_size()


@pytest.mark.parametrize(
    ("weights", "fit"), [(4.28 * GB, "fits"), (0.9 * 5.3 * GB, "fits"), (5 * GB, "tight"), (5.3 * GB, "tight"), (8.09 * GB, "no")]
)
def test_weights_that_nearly_fill_the_limit_are_warned_of_and_larger_ones_refused(mac, caplog, weights, fit):
    assert memory.fit_of(weights) == fit
    if fit == "no":
        with pytest.raises(CheckpointError, match=r"^7b: its weights take 8\.09 GB, more than the 5\.30 GB .*at 4, 3, 2 bits"):
            memory.check_fits("7b", weights, SEVEN)
    else:
        memory.check_fits("7b", weights, SEVEN)
    assert ("it will be slow" in caplog.text) == (fit == "tight")


def test_where_no_width_fits_the_bundled_model_is_named(mac):
    with pytest.raises(CheckpointError, match="use -m pocket"):
        memory.check_fits("70b", 140 * GB, 70 * 10**9)


def test_a_load_is_refused_before_any_weight_is_read(monkeypatch):
    monkeypatch.setattr(memory, "working_set", lambda: 10_000)
    read, evaluate = [], mx.eval

    def evaluated(*given):
        if given[0] is not mx.random.state:
            read.append(given)
        evaluate(*given)

    monkeypatch.setattr(mx, "eval", evaluated)
    with pytest.raises(CheckpointError, match=r"dream-b: its weights take .* a program may use here"):
        load(DATA / "dream-b")
    assert read == []
    load(DATA / "dream-b", check_memory=False)
    assert read


def test_the_wired_limit_is_set_once_in_a_process_for_weights_that_need_it(mac):
    memory.keep_resident(2 * GB)
    assert mac == []
    for _ in range(3):
        memory.keep_resident(4 * GB)
    assert mac == [5.3 * GB]


def test_the_wired_limit_can_be_left_alone(mac, monkeypatch):
    monkeypatch.setenv(memory.NO_WIRED, "1")
    memory.keep_resident(4 * GB)
    assert mac == []


def test_without_metal_no_wired_limit_is_set(mac, monkeypatch):
    monkeypatch.setattr(memory, "on_metal", lambda: False)
    memory.keep_resident(4 * GB)
    assert mac == []
