"""`diffucode cluster check`: each machine, the link, the predicted gain."""

import json

import pytest

from mlx_diffucoder.bench.ceilings import ceilings_of
from mlx_diffucoder.bench.links import LINKS, predict_hosts
from mlx_diffucoder.bench.roofline import work_of
from mlx_diffucoder.bench.shapes import SHAPES
from mlx_diffucoder.cluster import check
from mlx_diffucoder.cluster.check import gain_of, one_model_of

from ..cli.command import diffucode
from .test_hostfile import hostfile, script

MAX = {"chip": "Apple M4 Max", "gpu_cores": 40, "backend": "Metal"}
BASE = {"chip": "Apple M4", "gpu_cores": 10, "backend": "Metal"}


def test_the_predicted_gain_counts_each_machine_by_its_chip():
    assert gain_of([MAX, MAX, MAX], "7b", 4) == pytest.approx(3)
    assert 1.1 < gain_of([MAX, BASE], "7b", 4) < 1.5
    assert gain_of([MAX, BASE | {"backend": "CPU"}], "7b", 4) is None
    assert gain_of([MAX, None], "7b", 4) is None


def test_one_model_gains_by_the_measured_link_and_waits_for_the_slowest_machine(tmp_path):
    fast, slow = ({"latency_ms": 1e3 * one.latency, "gb_per_s": one.bandwidth / 1e9} for one in (LINKS["tb5"], LINKS["10gbe"]))
    predicted = predict_hosts(ceilings_of("Apple M4 Max", 40), work_of("7b", 4), SHAPES["7b"].config, 2, "tb5")
    tensor, sequence = one_model_of([MAX, MAX], fast, "7b", 4, tmp_path)
    assert (tensor["shard"], tensor["rows"], sequence["shard"], sequence["rows"]) == ("tensor", 32, "sequence", 64)
    for one, forwards in ((tensor, predicted["forwards"]), (sequence, predicted["sequence"])):
        assert one["times_faster"] == pytest.approx(next(of["times_faster"] for of in forwards if of["rows"] == one["rows"]))
    assert tensor["launch"] == f"mlx.launch --hostfile {tmp_path} -- diffucode generate --shard tensor -m MODEL PROMPT"
    assert one_model_of([MAX, MAX], slow, "7b", 4, tmp_path)[0]["times_faster"] < 1
    assert one_model_of([MAX, BASE], fast, "7b", 4, tmp_path)[0]["times_faster"] < 1
    assert [one["shard"] for one in one_model_of([MAX] * 3, fast, "7b", 4, tmp_path)] == ["sequence"]
    assert one_model_of([MAX, None], fast, "7b", 4, tmp_path) == one_model_of([MAX, MAX], None, "7b", 4, tmp_path) == []


def test_a_machine_that_cannot_work_is_named_and_the_others_are_shown(tmp_path):
    ours = {"mlx-diffucoder": "0.0.9"}
    other = script(tmp_path, "python", f"echo 'diffucode-worker {json.dumps(ours)}'; cat")
    path = hostfile(tmp_path, [{"ssh": "127.0.0.1", "python": "/nowhere/python"}, {"ssh": "127.0.0.1", "python": other}])
    done = diffucode("cluster", "check", path)
    assert done.returncode == 1
    assert done.stderr == f"diffucode: {path}: 2 of 2 machines cannot work: 127.0.0.1, 127.0.0.1 (2)\n"
    first, second, link, gain = done.stdout.splitlines()
    assert first.startswith("127.0.0.1: no worker starts there (env: ")
    assert second.startswith("127.0.0.1 (2): has mlx-diffucoder 0.0.9, and this machine 0.1.0; install the same version")
    assert link.startswith("link: not measured; it needs ips")
    assert gain == "many answers (--cluster): not predicted for these chips"


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1"])
def test_the_link_is_measured_by_the_ring_or_its_address_is_wrong(tmp_path, monkeypatch, address):
    monkeypatch.setattr(check, "LONGEST", 8)
    hosts = [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": "127.0.0.1", "ips": [address]}]
    done = diffucode("cluster", "check", hostfile(tmp_path, hosts), "--json")
    assert done.returncode == (0 if address == "127.0.0.1" else 1), done.stderr
    found = json.loads(done.stdout)
    assert [machine["error"] for machine in found["machines"]] == [None, None]
    assert {machine["card"]["backend"] for machine in found["machines"]} <= {"CPU", "Metal", "CUDA"}
    if address == "127.0.0.1":
        assert 0 < found["link"]["latency_ms"] < 1000
        assert found["link"]["gb_per_s"] > 0
        assert found["launch"].startswith("mlx.launch --hostfile ")
    else:
        assert found["link"] == {"error": "MLX's ring does not connect; check the ips in the hostfile, and the firewalls"}
