"""`diffucode train`, `fuse` and `--adapter` as a user starts them."""

import json
import os
import signal
import subprocess

import mlx.core as mx
import pytest

from ..training.small import CHECKPOINT, small_checkpoint, small_config, write_rows
from .command import COMMAND, assert_one_line, diffucode, environment

SHORT = ("--batch-size", 2, "--max-length", 64, "--learning-rate", 0.001, "--report-every", 1, "--steps", 6)


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("floats"))


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", 6)


def scratch(folder, rows, out, *flags):
    config = small_config(folder)
    return ("train", "--from-scratch", config, "--tokenizer", CHECKPOINT, "--data", rows, "--out", out, *SHORT, *flags)


def same(one, two):
    a, b = mx.load(str(one)), mx.load(str(two))
    return a.keys() == b.keys() and all(mx.array_equal(a[name], b[name]) for name in a)


def test_an_adapter_is_trained_used_and_fused(tmp_path, floats, rows):
    done = diffucode("train", "-m", floats, "--data", rows, "--valid", rows, "--out", tmp_path / "a", *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["step"] == 6
    assert report["memory_computed"]["total"] > 0
    lines = done.stderr.splitlines()
    assert lines[0].startswith("6 texts, 6 steps; about ")
    assert [line.split("  ")[0] for line in lines[1:]] == ["step 1", "step 2", "step 3", "step 4", "step 5", "step 6", "step 6"]
    assert "valid" in lines[-1]
    logged = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6, 6]

    asked = ("generate", "-m", floats, "--max-tokens", 4, "--json", "hi")
    plain, adapted = diffucode(*asked), diffucode(*asked, "--adapter", tmp_path / "a")
    assert plain.returncode == adapted.returncode == 0, adapted.stderr
    done = diffucode("fuse", "-m", floats, "--adapter", tmp_path / "a", "--out", tmp_path / "fused")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "fused")), done.stderr
    fused = diffucode("generate", "-m", tmp_path / "fused", "--max-tokens", 4, "--json", "hi")
    assert json.loads(fused.stdout)["tokens"] == json.loads(adapted.stdout)["tokens"]


def test_an_adapter_of_another_model_is_one_line(tmp_path, floats, rows):
    assert diffucode("train", "-m", floats, "--data", rows, "--out", tmp_path / "a", *SHORT).returncode == 0
    task = {"task_id": "t/0", "prompt": "Add.", "entry_point": "f", "test": "def check(f):\n    pass"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task))
    (tmp_path / "holes.py").write_text("a = <FILL>")
    verbs = [
        ("generate", "hi"),
        ("eval", tmp_path / "tasks.jsonl", "--allow-code-execution"),
        ("infill", tmp_path / "holes.py"),
        ("bench", "run"),
        ("bench", "tune"),
        ("fuse", "--out", tmp_path / "f"),
    ]
    for verb in verbs:
        done = diffucode(
            *verb, "-m", CHECKPOINT, "--adapter", tmp_path / "a", env={"DIFFUCODE_PROFILES": str(tmp_path / "tuned")}
        )
        assert_one_line(done, "the adapter belongs to another model", str(floats))
    assert not (tmp_path / "f").exists()


def stopped(command, step, how):
    """Start a run, send it a signal after a step, and return its exit code and what it wrote on stderr since then."""
    process = subprocess.Popen([COMMAND, *map(str, command)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
    for line in process.stderr:
        if line.startswith(b"step %d " % step):
            process.send_signal(how)
            break
    out, err = process.communicate(timeout=120)
    assert out == b""
    return process.returncode, err


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_and_then_stopped_goes_on_to_the_same_bits(tmp_path, rows, how):
    run = tmp_path / "run"
    command = scratch(tmp_path, rows, run, "--steps", 80, "--save-every", 4)
    assert stopped(command, 5, signal.SIGKILL)[0] == -signal.SIGKILL
    (killed,) = [one.name for one in run.glob("step-*")]
    assert_one_line(diffucode(*command), "already holds a run")
    code, err = stopped((*command, "--resume"), int(killed[5:]) + 3, how)
    assert code == 128 + how, err
    assert b"--resume continues" in err.splitlines()[-1]
    (kept,) = [one.name for one in run.glob("step-*")]
    assert int(kept[5:]) >= int(killed[5:]) + 3
    assert not (run / "config.json").exists()
    assert diffucode(*command, "--resume").returncode == 0
    assert diffucode(*scratch(tmp_path, rows, tmp_path / "whole", "--steps", 80)).returncode == 0
    assert same(tmp_path / "whole" / "model.safetensors", run / "model.safetensors")


def test_a_disk_that_is_full_leaves_the_checkpoint_before(tmp_path, rows):
    """A limit on the size of files stands for it: the system refuses to write more."""
    run = scratch(tmp_path, rows, tmp_path / "run", "--save-every", 3)
    first = subprocess.Popen([COMMAND, *map(str, run)], stderr=subprocess.PIPE, env=environment())
    for line in first.stderr:
        if line.startswith(b"step 4 "):
            first.kill()
            break
    first.communicate()
    assert [one.name for one in (tmp_path / "run").glob("step-*")] == ["step-00000003"]
    shell = ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", COMMAND, *map(str, run), "--resume"]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    assert "step-00000003 is complete, continue from it with --resume" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [one.name for one in (tmp_path / "run").iterdir() if "step" in one.name] == ["step-00000003"]
    assert diffucode(*run, "--resume").returncode == 0


def test_a_dry_run_computes_the_memory_and_writes_nothing(tmp_path, floats, rows):
    done = diffucode("train", "-m", floats, "--data", rows, "--out", tmp_path / "a", *SHORT, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    computed = json.loads(done.stdout)["memory_computed"]
    assert computed["total"] == sum(value for name, value in computed.items() if name != "total")
    assert not (tmp_path / "a").exists()
    with_checkpoints = diffucode(
        "train", "-m", floats, "--data", rows, "--out", "x", *SHORT, "--dry-run", "--json", "--gradient-checkpointing"
    )
    assert json.loads(with_checkpoints.stdout)["memory_computed"]["activations"] < computed["activations"]


def test_bad_data_is_one_line_that_names_it(tmp_path, floats, rows):
    def trained(*flags):
        return diffucode("train", "-m", floats, "--out", tmp_path / "a", *SHORT, *flags)

    assert_one_line(trained("--data", tmp_path / "none.jsonl"), "none.jsonl", "cannot be read")
    (tmp_path / "empty.jsonl").touch()
    assert_one_line(trained("--data", tmp_path / "empty.jsonl"), "empty.jsonl", "holds no text")
    with rows.open("a") as file:
        file.write('{"prompt": 3}\n')
    assert_one_line(trained("--data", rows), "rows.jsonl:7")
    rows.write_text(json.dumps({"prompt": "Add", "completion": "x = 1\n" * 40}) + "\n" + rows.read_text().splitlines()[0])
    assert_one_line(trained("--data", rows), "1 text is longer than 64 tokens", "at 1", "--skip-long", "--max-length")
    assert not (tmp_path / "a").exists()
    done = trained("--data", rows, "--skip-long")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 texts are too long" in done.stderr


def test_flags_that_cannot_work_are_one_line(tmp_path, floats, rows):
    def trained(*flags):
        return diffucode("train", "-m", floats, "--data", rows, "--out", tmp_path / "a", *flags)

    assert_one_line(trained("--tune", "half"), "--tune must be one of full, lora, dora", code=2)
    assert_one_line(trained("--steps", "2", "--epochs", "2"), "--steps and --epochs", code=2)
    assert_one_line(trained("--from-scratch", CHECKPOINT / "config.json"), "--from-scratch and --tokenizer go together", code=2)
    assert_one_line(trained("--learning-rate", "nan"), "--learning-rate must be", code=2)
    assert_one_line(trained("--epochs", "-1"), "--epochs must be above 0", code=2)
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, floats, rows):
    tmp_path.chmod(0o500)
    assert_one_line(diffucode("train", "-m", floats, "--data", rows, "--out", tmp_path / "a", *SHORT), "cannot be written")


def test_distilling_that_cannot_work_is_one_line(tmp_path, floats):
    task = {"task_id": "t/0", "prompt": "Add.", "entry_point": "f", "test": "def check(f):\n    assert f(1)"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task))

    def distilled(*flags):
        flags = ("--data", tmp_path / "tasks.jsonl", "--out", tmp_path / "a", "--max-tokens", "8", *flags)
        return diffucode("train", "distill", "-m", floats, *flags)

    assert_one_line(distilled(), "--allow-code-execution", code=2)
    allowed = "--allow-code-execution"
    assert_one_line(distilled(allowed, "--objective", "draft"), "--objective must be one of drafts", code=2)
    assert_one_line(distilled(allowed, "--untested", "--tune", "full"), "a gate needs tune lora, not full", code=2)
    full = ("--untested", "--tune", "full", "--no-gated", "--objective", "d2f")
    assert_one_line(distilled(allowed, *full), "tune must be lora for the objective d2f, not full", code=2)
    assert_one_line(distilled(allowed), "tasks.jsonl: no task has 3 asserts or more in its tests")
    done = distilled(allowed, "--untested", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["memory_computed"]["total"] > 0
    assert not (tmp_path / "a").exists()
