"""The measurements measure what they say."""

import json
import subprocess
import sys

import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.bench.frontier import GRID, config_of
from mlx_diffucoder.config import PRESETS

from .conftest import DATA

ROOT = DATA.parents[1]


def test_every_row_of_the_grid_is_a_configuration():
    for fields in GRID.values():
        assert config_of(fields, 64).max_tokens == 64
    assert config_of(GRID["reference, two tokens a step"], 64).steps == 32
    for name in PRESETS:
        assert config_of(GRID[name], 64) == GenerationConfig.preset(name, max_tokens=64, seed=0)


def frontier(*args):
    command = [sys.executable, "-m", "mlx_diffucoder.bench.frontier", str(ROOT / "bench/tasks/functions.jsonl"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_frontier_writes_a_table_json_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rows = ("--only", "balanced", "--only", "fast")
    done = frontier("-m", DATA / "dream-b", "--limit", 2, "--max-tokens", 12, "--out", tmp_path, "--allow-code-execution", *rows)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert [line.split()[0] for line in table[1:]] == ["balanced", "fast"]
    assert json.loads(last) == json.loads((tmp_path / "frontier.json").read_text())
    row = json.loads(last)["rows"]["balanced"]
    assert row["tasks"] == 2
    assert {"pass@1", "nfe", "positions_per_useful_token", "tokens_per_forward", "unresolved_masks"} <= row.keys()
    assert "<svg" in (tmp_path / "frontier.svg").read_text()


@pytest.mark.parametrize(
    ("args", "said"), [([], "--allow-code-execution"), (["--allow-code-execution", "--only", "best"], "'best'")]
)
def test_frontier_says_in_one_line_what_is_wrong(args, said, tmp_path):
    done = frontier("--out", tmp_path / "out", *args)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_by_layer_measures_both_ways():
    command = [sys.executable, "-m", "mlx_diffucoder.bench.by_layer", "--limit", "1", "--layers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["--whole"]["kl"] == report["--by-layer"]["kl"] > 0
    assert 0 < report["--by-layer"]["peak_resident_bytes"] < report["--whole"]["peak_resident_bytes"] * 1.2
