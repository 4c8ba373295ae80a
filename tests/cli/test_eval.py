"""`diffucode eval`, as a process."""

import json
import signal
import subprocess
import time

import pytest

from ..conftest import DATA
from ..evaluation.programs import FUNCTIONS, HUMAN_EVAL
from .command import COMMAND, assert_one_line, diffucode, environment

TINY = ("-m", DATA / "dream-b", "--max-tokens", "4")
ALLOW = "--allow-code-execution"


def run(*args):
    return diffucode("eval", FUNCTIONS, *TINY, ALLOW, *args)


def results(path):
    """A results file's lines behind the first, without what two runs never share."""
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [{key: value for key, value in row.items() if key not in ("seconds", "peak_memory_bytes")} for row in rows]


def test_json_holds_accuracy_and_what_it_cost():
    done = run("--limit", "2", "-n", "2", "-k", "2", "--temp", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert all("sandbox" in line for line in done.stderr.splitlines())
    report = json.loads(done.stdout)
    assert report.keys() == {
        *("pass@1", "pass@2", "confidence_interval", "tasks", "samples", "answers", "passed", "failures"),
        *("nfe", "positions", "positions_per_useful_token", "tokens_per_forward", "useful_tokens", "useful_tokens_per_second"),
        *("unresolved_masks", "seconds", "peak_memory_bytes", "model", "config", "interrupted"),
        *("rows", "tile", "tiles_per_useful_token"),
    }
    assert (report["tasks"], report["samples"], report["answers"]) == (2, 2, 4)
    assert report["failures"].keys() == {"wrong", "error", "exit", "timeout", "memory", "output", "no_code"}
    assert sum(report["failures"].values()) + report["passed"] == 4
    assert report["config"]["seed"] == 0
    assert sum(report["rows"].values()) == 4 * report["nfe"]
    tiles = sum(-(-int(rows) // 32) * forwards for rows, forwards in report["rows"].items())
    assert report["tiles_per_useful_token"] == pytest.approx(tiles / report["useful_tokens"])
    assert report["tokens_per_forward"] == pytest.approx(report["useful_tokens"] / (4 * report["nfe"]))


def test_without_json_it_is_a_table():
    done = run("--limit", "1")
    assert done.returncode == 0, done.stderr
    shown = ("pass@1", "95 % interval", "NFE", "per useful token", "per forward", "per second", "unresolved masks", "error 1")
    for words in shown:
        assert words in done.stdout


def test_rows_with_a_suffix_are_reported_as_infilling(tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps(HUMAN_EVAL | {"suffix": "    return 1\n"}) + "\n")
    options = ("eval", tasks, "-m", DATA / "dream-b", "--max-tokens", "4", ALLOW, "--out", tmp_path / "out.jsonl")
    assert_one_line(diffucode(*options, "--compare-orders"), "--compare-orders is for answers", code=2)
    assert "dream-b, infilling" in diffucode(*options).stdout
    report = json.loads(diffucode(*options, "--json").stdout)
    assert (report["benchmark"], report["config"]["window"], report["answers"]) == ("infilling", "sliding:width=64,suffix=0", 1)


def test_without_leave_no_code_is_run():
    assert_one_line(diffucode("eval", FUNCTIONS, *TINY), "--allow-code-execution", "sandbox", "on this machine", code=2)


def test_a_stopped_run_goes_on_to_what_an_uninterrupted_one_gives(tmp_path):
    options = ("-n", "2", "--temp", "1.5", "--seed", "3", "--json")
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    report = json.loads(run("--limit", "3", *options, "--out", whole).stdout)
    assert run("--limit", "2", *options, "--out", part).returncode == 0
    part.write_bytes(part.read_bytes()[:-40])  # a crash in the middle of a line
    again = json.loads(run("--limit", "3", *options, "--out", part).stdout)
    assert results(part) == results(whole)
    assert len(results(whole)) == 6
    for key in ("pass@1", "nfe", "positions", "useful_tokens", "failures", "answers"):
        assert again[key] == report[key]
    assert json.loads(run("--limit", "1", *options, "--out", part).stdout)["answers"] == 2
    assert_one_line(run("--limit", "3", *options, "--seed", "4", "--out", part), str(part), "config.seed 3 instead of 4")


def test_the_steps_of_each_answer_are_in_a_trace_of_its_own(tmp_path):
    traces = tmp_path / "traces"
    plain, traced = run("--limit", "2", "--json"), run("--limit", "2", "--json", "--trace", traces)
    assert traced.returncode == 0, traced.stderr
    assert [json.loads(done.stdout)["nfe"] for done in (plain, traced)] == [4, 4]
    ids = [json.loads(line)["task_id"] for line in FUNCTIONS.read_text().splitlines()[:2]]
    files = [traces / (id.replace("/", "%2F") + "-0.jsonl") for id in ids]
    assert sorted(traces.iterdir()) == sorted(files)
    for file in files:
        header, *steps, _ = map(json.loads, file.read_text().splitlines())
        assert sorted(place - header["start"] for step in steps for place in step["at"]) == list(range(4))
        assert diffucode("trace", "show", file).returncode == 0


def test_two_orders_are_compared_answer_by_answer_and_their_files_continue(tmp_path):
    options = ("--limit", "2", "--compare-orders", "--out", tmp_path / "r.jsonl", "--trace", tmp_path / "traces")
    report = json.loads(run(*options, "--json").stdout)
    assert report.keys() == {"left_to_right", "confidence", "difference", "interrupted"}
    assert (report["left_to_right"]["config"]["rule"], report["confidence"]["config"]["rule"]) == ("leftmost", "schedule")
    assert all(report[order]["answers"] == 2 for order in ("left_to_right", "confidence"))
    assert report["difference"]["both"] + report["difference"]["neither"] == 2
    files = sorted(tmp_path.glob("r-*.jsonl"))
    assert [file.name for file in files] == ["r-confidence.jsonl", "r-left-to-right.jsonl"]
    assert sorted(len(list(folder.iterdir())) for folder in (tmp_path / "traces").iterdir()) == [2, 2]
    before = [file.read_bytes() for file in files]
    shown = run(*options, "--rule", "schedule").stdout
    assert [file.read_bytes() for file in files] == before
    gain = "+0.0 points of pass@1 (95 % interval +0.0 to +0.0)"
    for words in ("left-to-right", "confidence", "0 in both orders, 2 in neither", gain):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert_one_line(run(*options, "--rule", "leftmost"), "--compare-orders compares the rule leftmost with another", code=2)
    assert_one_line(run(*options, "--rule", "threshold:tau=0.5"), "r-confidence.jsonl", "another run")


def test_a_trace_goes_neither_over_a_file_nor_over_what_is_none(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    assert_one_line(run("--limit", "1", "--trace", file), f"--trace {file}: ")
    assert run("--limit", "1", "--trace", tmp_path / "traces").returncode == 0
    (trace,) = (tmp_path / "traces").iterdir()
    trace.write_text("x")
    assert_one_line(run("--limit", "1", "--trace", tmp_path / "traces"), f"--trace {trace}: exists and is not a trace")
    assert trace.read_text() == "x"


def test_ctrl_c_keeps_what_is_finished_and_exits_130(tmp_path):
    out = tmp_path / "out.jsonl"
    command = [COMMAND, "eval", FUNCTIONS, *TINY[:2], "--max-tokens", "64", ALLOW, "--json", "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    deadline = time.monotonic() + 60
    while (not out.exists() or out.read_bytes().count(b"\n") < 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert all(b"sandbox" in line for line in stderr.splitlines())
    report = json.loads(stdout)
    assert report["interrupted"] is True
    assert 2 <= report["answers"] == len(results(out)) < 200


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        (["-n", "2"], "--temp", 2),
        (["-k", "3"], "-k 3", 2),
        (["--timeout", "0"], "--timeout", 2),
        (["--memory", "1"], "--memory", 2),
        (["--max-tokens", "2040"], "functions.jsonl:1: max_tokens 2040 does not fit", 1),
        (["-n", "0"], "--num-samples", 2),
        (["--limit", "0"], "--limit", 2),
        (["--only", "functions/O"], "--only functions/O: ", 1),
        (["--skip", "x"], "--skip x: ", 1),
        (["--only", "functions/1", "--skip", "functions/1"], "leave no task", 1),
        (["--no-extract"], "--samples FILE", 2),
        (["--out", "/nowhere/out.jsonl"], "/nowhere/out.jsonl", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_impossible_value_names_its_flag(args, said, code):
    assert_one_line(run(*args), said, code=code)


def test_tasks_are_chosen_by_their_id(tmp_path):
    out = tmp_path / "out.jsonl"
    done = run("--only", "functions/3", "--only", "functions/1", "--skip", "functions/3", "--only", "functions/5", "--out", out)
    assert done.returncode == 0, done.stderr
    assert [one["task_id"] for one in results(out)] == ["functions/1", "functions/5"]


BODY = "    return sum(xs)\n"
SAMPLES = [
    {"task_id": "HumanEval/0", "completion": BODY},
    {"task_id": "HumanEval/0", "solution": "Here:\n```python\ndef f(xs):\n    return sum(xs)\n```\n"},
    {"task_id": "HumanEval/0", "completion": "    return 0\n"},
    {"task_id": "HumanEval/9", "completion": "    return 0\n"},
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tasks(tmp_path):
    return lines(tmp_path / "tasks.jsonl", [HUMAN_EVAL, HUMAN_EVAL | {"task_id": "HumanEval/1"}])


def test_answers_made_elsewhere_are_scored_without_a_model(tasks, tmp_path):
    samples = lines(tmp_path / "samples.jsonl", SAMPLES)
    done = diffucode("eval", tasks, "--samples", samples, "-k", "2", ALLOW, "--json", env={"DIFFUCODE_MODEL": "/nowhere"})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["pass@1"] == pytest.approx(2 / 3)
    assert report["pass@2"] == pytest.approx(1.0)
    assert (report["missing"], report["unknown"]) == (["HumanEval/1"], ["HumanEval/9"])
    assert (report["tasks"], report["answers"], report["failures"]["wrong"]) == (1, 3, 1)
    missing, unknown = (next(line for line in done.stderr.splitlines() if name in line) for name in ("/1", "/9"))
    assert "no answer to these tasks, which are not counted" in missing
    assert "no task for these ids" in unknown
    assert "NFE" not in diffucode("eval", tasks, "--samples", samples, ALLOW).stdout


def test_without_extraction_a_completion_goes_on_with_the_prompt(tasks, tmp_path):
    samples = lines(tmp_path / "samples.jsonl", SAMPLES[:2])
    lines(tasks, [HUMAN_EVAL])
    out = tmp_path / "out.jsonl"
    done = diffucode("eval", tasks, "--samples", samples, "--no-extract", ALLOW, "--out", out)
    assert done.returncode == 0, done.stderr
    assert [one["kind"] for one in results(out)] == ["passed", "error"]
    assert_one_line(diffucode("eval", tasks, "--samples", samples, ALLOW, "--out", out), "extraction None instead of")
    lines(samples, SAMPLES[:1])
    assert_one_line(diffucode("eval", tasks, "--samples", samples, "--no-extract", ALLOW, "--out", out), "other samples")


@pytest.mark.parametrize(
    ("rows", "args", "said"),
    [
        ([], [], "holds no answer"),
        ([{"task_id": "HumanEval/0"}], [], "samples.jsonl:1: not an answer: it has neither completion nor solution"),
        ([{"completion": "x"}], [], "samples.jsonl:1: task_id is missing"),
        ([{"task_id": "HumanEval/0", "completion": 3}], [], "samples.jsonl:1: completion is a JSON int"),
        (SAMPLES, ["-k", "4"], "-k 4"),
        (SAMPLES, ["-m", "pocket"], "--model"),
        (SAMPLES, ["--temp", "1"], "--temp"),
    ],
)
def test_a_samples_file_that_cannot_be_scored_says_why(tasks, tmp_path, rows, args, said):
    samples = lines(tmp_path / "samples.jsonl", rows)
    done = diffucode("eval", tasks, "--samples", samples, ALLOW, *args)
    assert done.returncode == (2 if said.startswith("--") else 1)
    assert said in done.stderr.splitlines()[-1]


def test_a_broken_task_file_names_the_line(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(HUMAN_EVAL) + "\n{broken\n")
    assert_one_line(diffucode("eval", path, *TINY, ALLOW), f"{path}:2", "not valid JSON")
    assert_one_line(diffucode("eval", tmp_path / "none.jsonl", *TINY, ALLOW), "none.jsonl", "No such file")
