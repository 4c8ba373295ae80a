"""`diffucode bench tune`, and the commands that use what it stored."""

import json

import pytest

from ..conftest import DATA
from .command import assert_one_line, diffucode

MODEL = ("-m", DATA / "dream-b", "--max-tokens", 8)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """What `bench tune --json` printed, and the environment whose folder it stored in; what it stored is then made another."""
    folder = tmp_path_factory.mktemp("profiles")
    env = {"DIFFUCODE_PROFILES": str(folder)}
    done = diffucode("bench", "tune", *MODEL, "--trials", 1, "--prompt", "hi", "--json", env=env)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (file,) = folder.iterdir()
    assert str(file) == said["file"]
    content = json.loads(file.read_text())
    assert content.keys() == (said.keys() - {"file"}) | {"version"}
    content["decoding"] = {"balanced": {"rule": "leftmost", "window": "tree:rows=9"}}
    file.write_text(json.dumps(content))
    return said, env


def window(*args, env):
    done = diffucode("generate", *MODEL, "--json", *args, "hi", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["config"]["window"]


def test_what_was_chosen_by_is_in_the_profile(tuned):
    said, _ = tuned
    points = said["measured"]["points"]
    assert said["decoding"].keys() == {"balanced"}
    assert said["decoding"]["balanced"] in [{"rule": point["rule"], "window": point["window"]} for point in points]
    assert all(0 <= point["same"] <= 1 for point in points)
    assert said["measured"]["orders"].keys() == {"prompts", "same", "left_to_right", "confidence", "likelier"}
    assert said["model"] == str(DATA / "dream-b")
    assert said["machine"]["chip"]


def test_generate_takes_the_tuned_window_unless_another_is_named(tuned):
    _, env = tuned
    assert window(env=env) == "tree:rows=9"
    assert window("--no-tuned", env=env) == "tree:rows=32"
    assert window("--rule", "threshold:tau=0.95", env=env) == "tree:rows=32"
    assert window("--window", "sliding:width=24,suffix=4", env=env) == "sliding:width=24,suffix=4"
    assert window("--preset", "exact", env=env) == "whole"
    assert window("--steps", 4, env=env) == "whole"
    assert window("--dtype", "float16", env=env) == "tree:rows=32"  # other times: another profile
    done = diffucode("generate", "-m", DATA / "dream-a", "--max-tokens", 4, "--json", "hi", env=env)
    assert json.loads(done.stdout)["config"]["window"] == "tree:rows=32"


def test_verbose_says_which_window_it_is(tuned):
    _, env = tuned
    done = diffucode("generate", *MODEL, "-v", "hi", env=env)
    assert done.stderr.startswith("leftmost on tree:rows=9, tuned for this machine (--no-tuned: the preset's)\n")
    assert "tuned" not in diffucode("generate", *MODEL, "hi", env=env).stderr


def test_eval_takes_it_and_says_so(tuned, tmp_path):
    task = {"task_id": "a", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): pass\n"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task))
    done = diffucode("eval", tmp_path / "tasks.jsonl", *MODEL, "--json", "--allow-code-execution", env=tuned[1])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"]["window"] == "tree:rows=9"
    assert "tuned for this machine" in done.stderr


def test_a_table_for_people_has_its_units_in_80_columns(tmp_path):
    done = diffucode("bench", "tune", *MODEL, "--trials", 1, "--prompt", "hi", env={"DIFFUCODE_PROFILES": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    *table, stored, last = done.stdout.splitlines()
    assert stored.startswith(f"stored in {tmp_path}")
    assert last.startswith("generate, chat and eval use it")
    rows = [line for line in table if " ms" in line and line.split()[0].isdigit()]
    assert len(rows) == 8
    assert any(line.startswith("order  ") for line in table)
    assert sum(" chosen" in row for row in rows) == 1
    assert max(map(len, table)) <= 80


def test_what_cannot_be_tuned_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    env = {"DIFFUCODE_PROFILES": str(tmp_path / "file")}
    assert_one_line(diffucode("bench", "tune", *MODEL, env=env), str(tmp_path / "file"), "cannot be stored")
