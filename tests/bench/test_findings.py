"""`bench.findings`: the paper's findings, looked for in any checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.studies.findings import KS, answers_at, sink
from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.tasks import read_tasks

from ..conftest import DATA

TASKS = Path(__file__).parents[2] / "bench" / "tasks" / "functions.jsonl"


def findings(*flags):
    command = [sys.executable, "-m", "bench.studies.findings", TASKS, *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_table_json_and_a_picture_come_of_any_checkpoint(tmp_path):
    pytest.importorskip("matplotlib")
    small = ("-m", DATA / "dream-b", "--limit", 2, "--max-tokens", 8, "-n", 2, "--temp", 0.5, "--allow-code-execution")
    done = findings(*small, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "findings.json").read_text())
    assert "<svg" in (tmp_path / "findings.svg").read_text()
    assert list(report["temperatures"]) == ["0", "0.5"]
    assert {"pass@1", "pass@2", "local", "global"} == report["temperatures"]["0.5"].keys()
    assert len(report["sink"]) == 8
    assert report["steps"]["loss"] == 0  # where nothing passes, nothing is lost


@pytest.mark.parametrize(
    ("flags", "said"), [((), "--allow-code-execution"), (("--temp", 0, "--allow-code-execution"), "--temp must be above 0")]
)
def test_what_cannot_be_measured_is_one_line(tmp_path, flags, said):
    done = findings("--out", tmp_path / "out", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_orders_are_shares_and_the_first_forward_is_surest_next_to_the_prompt(first_pocket):
    network, tokenizer = first_pocket  # the bundled one writes these from left to right, where all shares are 1
    tasks = read_tasks(TASKS)[:1]
    run = answers_at(network, tokenizer, tasks, GenerationConfig(max_tokens=32, rule="schedule", seed=0), 1)
    row = run.to_dict(1)
    assert run.passed == [1]
    assert all(0 < row["global"][str(k)] <= 1 and 0 <= row["local"][str(k)] < 1 for k in KS)
    assert row["local"]["1"] > row["local"]["8"]  # a longer run is asked for
    assert row["global"]["8"] > row["global"]["1"]  # more places count
    confidences = sink(network, tokenizer, tasks, 32)
    assert confidences[0] > 0.9
    assert all(0 < one <= 1 + 1e-6 for one in confidences)
