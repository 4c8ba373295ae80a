"""`bench.grpo`: both ways to learn, from the same model, for equal compute."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TASKS = Path(__file__).parents[2] / "bench" / "tasks" / "functions.jsonl"


def lift(*flags, train=TASKS):
    command = [sys.executable, "-m", "bench.studies.grpo", "pocket", train, TASKS, *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_both_ways_cost_the_same_and_are_judged_alike(tmp_path):
    small = ("--steps", 2, "--limit", 2, "--prompts", 2, "--group", 4, "--temp", 1.3, "--max-tokens", 32, "--batch-size", 4)
    done = lift("--out", tmp_path / "out", *small, "--allow-code-execution")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert list(rows) == ["as it was", "coupled-GRPO", "supervised"]
    costs = [rows[name]["compute"] for name in ("coupled-GRPO", "supervised")]
    assert costs[0] <= costs[1] < costs[0] + 3 * 4 * 160  # at most a batch more
    assert all(0 <= row["balanced"] <= 1 for row in rows.values())


@pytest.mark.parametrize(
    ("flags", "said"), [((), "--allow-code-execution"), (("--allow-code-execution",), "exists already; choose another")]
)
def test_what_cannot_be_measured_is_one_line(tmp_path, flags, said):
    done = lift("--out", tmp_path, *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_tasks_to_learn_from_are_read_before_the_model_is_judged(tmp_path):
    (tmp_path / "bad.jsonl").write_text(TASKS.read_text().splitlines()[0][:99])
    done = lift("--out", tmp_path / "out", "--allow-code-execution", train=tmp_path / "bad.jsonl")
    assert (done.returncode, done.stdout) == (1, "")
    assert "bad.jsonl:1: not valid JSON" in done.stderr
    assert len(done.stderr.splitlines()) == 1
