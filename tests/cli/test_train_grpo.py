"""`diffucode train grpo` as a user starts it."""

import json
import os
import signal
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest

from ..conftest import DATA
from .command import COMMAND, assert_one_line, diffucode, environment

TASKS = Path(__file__).parents[2] / "bench" / "tasks" / "functions.jsonl"


@pytest.fixture
def tasks(tmp_path):
    """A few, at a temperature at which the bundled model fails some of them."""
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(line + "\n" for line in TASKS.read_text().splitlines()[:3:2]))
    return file


def flags(tasks, out, *more, max_tokens=24, model="pocket"):
    fixed = (
        "-m",
        model,
        "--dtype",
        "float32",
        "--layers",
        1,
        "--max-tokens",
        max_tokens,
        "--temp",
        1.6,
        "--prompts-per-step",
        2,
    )
    return ("train", "grpo", *fixed, "--data", tasks, "--out", out, "--allow-code-execution", *more)


def test_a_run_learns_from_what_its_answers_earn(tmp_path, tasks):
    tasks.write_text(tasks.read_text().splitlines()[0] + "\n")
    more = ("--steps", 1, "--group", 2, "--prompts-per-step", 1, "--report-every", 1, "--valid", tasks, "--json")
    done = diffucode(*flags(tasks, tmp_path / "out", *more, max_tokens=20))
    assert done.returncode == 0, done.stderr
    assert "1 tasks, 2 answers each to 1 at a time, 1 steps; about" in done.stderr
    assert "reward " in done.stderr
    assert "solved " in done.stderr
    report = json.loads(done.stdout)
    assert 0 <= report["solved"] <= 1
    assert report["valid"] == report["best_valid"] == 0  # at temperature 0 it is solved
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert {"reward", "solved", "formed", "telling"} <= lines[0].keys()
    assert {one.name for one in (tmp_path / "out").glob("adapter*")} == {"adapters.safetensors", "adapter_config.json"}
    weights = mx.load(str(tmp_path / "out" / "adapters.safetensors"))
    assert any(mx.any(value != 0) for name, value in weights.items() if name.endswith("lora_b"))


def test_ctrl_c_saves_and_resume_goes_on(tmp_path, tasks):
    given = flags(tasks, tmp_path / "out", "--steps", 3, "--group", 2, "--report-every", 1, max_tokens=8, model=DATA / "dream-b")
    process = subprocess.Popen([COMMAND, *map(str, given)], stderr=subprocess.PIPE, env=environment(), text=True)
    for line in process.stderr:
        if line.startswith("step 1 "):
            os.kill(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 130
    assert "--resume continues" in rest
    done = diffucode(*given, "--resume")
    assert done.returncode == 0, done.stderr
    assert "step 3" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--group", 1), ("--group must be 2 or more", "compared with the others")),
        (("--order", "left"), ("--order must be one of any, left-to-right",)),
        (("--temp", 0), ("--temp must be above 0",)),
        (("--clip-ratio", -1), ("--clip-ratio must be from",)),
        (("--kl", "nan"), ("--kl must be from",)),
        (("--timeout", 0), ("--timeout must be above 0",)),
        (("--rule", "threshhold"), ("--rule must be one of", "did you mean 'threshold'?")),
        (("--max-tokens", 10**6), ("tasks.jsonl:1: ", "does not fit")),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, tasks, more, said):
    assert_one_line(diffucode(*flags(tasks, tmp_path / "out", *more)), *said, code=1 if "--max-tokens" in more else 2)
    assert not (tmp_path / "out").exists()


def test_without_leave_to_run_code_nothing_begins(tmp_path, tasks):
    given = [flag for flag in flags(tasks, tmp_path / "out") if flag != "--allow-code-execution"]
    assert_one_line(diffucode(*given), "runs the model's code", "--allow-code-execution", code=2)


def test_each_of_the_two_offers_only_the_options_that_mean_something_to_it(tmp_path, tasks):
    for flag in (("--infill", 0.3), ("--dropout", 0.1), ("--from-scratch", "config.json"), ("--accumulate", 2)):
        assert_one_line(diffucode(*flags(tasks, tmp_path / "out", *flag)), f"No such option: {flag[0]}", code=2)
    for flag in (("--group", 4), ("--kl", 0.1), ("--temp", 0.7), ("--allow-code-execution",)):
        done = diffucode("train", "-m", "pocket", "--data", tasks, "--out", tmp_path / "out", *flag)
        assert_one_line(done, f"No such option: {flag[0]}", code=2)
    done = diffucode("train", "--data", tasks, "--out", tmp_path / "out", "grpo", "--data", tasks, "--out", tmp_path / "out")
    assert_one_line(done, "--data is not for diffucode train grpo", code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [("--method", "coupled-grpo"), ("--method=sft",), ("--method", "grpo")])
def test_the_option_that_chose_the_method_names_the_commands_to_use(tmp_path, tasks, method):
    given = ("train", "-m", "pocket", *method, "--data", tasks, "--out", tmp_path / "out", "--group", 4)
    assert_one_line(diffucode(*given), "use `train grpo` for coupled-grpo", "`train` alone for sft", code=2)


def test_without_the_required_options_it_is_wrong_usage():
    assert_one_line(diffucode("train"), "Missing option '--data'", code=2)
    assert_one_line(diffucode("train", "grpo"), "Missing option '--data'", code=2)


def test_data_that_are_no_tasks_are_one_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n")
    assert_one_line(diffucode(*flags(file, tmp_path / "out")), "rows.jsonl: holds no task")
    file.write_text('{"prompt": "Add", "completion": "x"}\n')
    assert_one_line(diffucode(*flags(file, tmp_path / "out")), "rows.jsonl:1: not a task of a known format")
