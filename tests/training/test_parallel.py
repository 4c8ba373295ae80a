"""A run on two processes of MLX's ring: the weights are those of one process that does all parts."""

import json
import os
import shutil
import signal
import sys
import time

import mlx.core as mx
import numpy as np
import pytest

from ..cli.command import diffucode
from ..conftest import DATA
from ..ranks import ended, start
from .test_grpo import write_tasks

pytestmark = pytest.mark.slow
TRAIN = ("-m", DATA / "dream-b", "--dtype", "float32", "--rank", "2", "--learning-rate", "1e-2", "--steps", "3", "--seed", "1")

# A command whose deadlines are shorter. With STALL it stops before the third step: rank 0 waits for rank 1 in MLX.
RUN = """
import os, sys, time
from mlx_diffucoder import cli, link
from mlx_diffucoder.ranks import rank
from mlx_diffucoder.training.trainer import Trainer
link.START, link.STALLED = float(os.environ.get("START", 60)), 4
step = Trainer._step
def stalling(trainer):
    if trainer.progress.step == 2 and "STALL" in os.environ:
        if rank():
            time.sleep(600)
        print("ready", flush=True)
    step(trainer)
Trainer._step = stalling
sys.argv = ["diffucode", *(one.replace("RANK", str(rank())) for one in sys.argv[1:])]
cli.main()
"""


def started(folder, *args, **how):
    return start(folder, 2, [sys.executable, "-c", RUN, *args], **how)


def assert_failed(processes, line):
    """All end with an error, whose one line rank 0 writes."""
    outcomes = ended(processes)
    said = "".join(said for _, _, said in outcomes)
    assert all(code in (1, 2) for code, _, _ in outcomes), outcomes
    assert line in said and said.count("\n") == 1, outcomes


def assert_same_weights(one, other):
    first, second = (mx.load(str(folder / "adapters.safetensors")) for folder in (one, other))
    assert first.keys() == second.keys() and any(np.abs(np.array(value)).max() > 1e-3 for value in first.values())
    for name, value in first.items():
        np.testing.assert_allclose(np.array(second[name]), np.array(value), atol=1e-5, err_msg=name)


def last_report(folder):
    report = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    return [report[name] for name in ("step", "loss", "norm")]


def supervised(folder):
    texts = folder / "texts.jsonl"
    rows = [{"prompt": f"Add {i}.", "completion": f"def f(x): return x + {i}"} for i in range(12)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ("train", "--data", texts, "--batch-size", "2", "--accumulate", "3", *TRAIN)


def grpo(folder):
    tasks = write_tasks(folder / "tasks.jsonl")
    answers = ("--group", "3", "--prompts-per-step", "3", "--updates", "2", "--max-tokens", "8", "--format-reward", "0.5")
    return ("train", "grpo", "--data", tasks, *answers, "--kl", "0.1", "--sandbox", "off", "--allow-code-execution", *TRAIN)


def left_to_right(folder):
    return (*grpo(folder), "--order", "left-to-right")


# Three parts for two processes: one has more.
@pytest.mark.parametrize("command", [supervised, grpo, left_to_right])
def test_averaged_gradients_give_the_weights_of_the_joined_batch(tmp_path, command):
    args = command(tmp_path)
    outcomes = ended(started(tmp_path, *args, "--out", tmp_path / "two"))
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert diffucode(*args, "--out", tmp_path / "one").returncode == 0
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    assert last_report(tmp_path / "two") == pytest.approx(last_report(tmp_path / "one"), rel=1e-4)


LOST = "rank {} (127.0.0.1) was lost: its process has ended, or the link to it is down\n"


@pytest.mark.parametrize(
    ("number", "victim", "seconds", "line"),
    [
        (signal.SIGKILL, 1, 2, LOST.format(1)),
        (signal.SIGKILL, 0, 2, LOST.format(0)),
        (signal.SIGSTOP, 1, 10, "rank 1 (127.0.0.1) does not answer: stopped, or a step that takes too long\n"),
    ],
)
def test_a_lost_peer_ends_the_run_which_then_continues(tmp_path, number, victim, seconds, line):
    args = (*supervised(tmp_path), "--save-every", "1", "--out", tmp_path / "two")
    processes = started(tmp_path, *args, STALL="1")
    while "ready" not in processes[0].stdout.readline():
        assert processes[0].poll() is None
    if number == signal.SIGSTOP:  # another launch into the same folder changes nothing
        (tmp_path / "again").mkdir()
        assert_failed(started(tmp_path / "again", *args, "--resume"), "another run is writing to it")
    begun = time.monotonic()
    os.kill(processes[victim].pid, number)
    code, _, said = ended([processes[1 - victim]])[0]
    assert time.monotonic() - begun < seconds
    processes[victim].kill()
    assert (code, said.endswith(f"diffucode: {line}"), said.count("diffucode: ")) == (1, True, 1), said
    if number == signal.SIGKILL and victim:
        assert [code for code, _, _ in ended(started(tmp_path, *args, "--resume"))] == [0, 0]
        assert diffucode(*supervised(tmp_path), "--out", tmp_path / "one").returncode == 0
        assert_same_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "ranks", "line"),
    [
        (("--accumulate", "1"), None, "diffucode: --accumulate must be at least 2, one batch for each process, not 1"),
        (("--seed", "RANK"), None, "diffucode: rank 1: seed is 1 there, and 0 at rank 0"),
        (("--data", "{}/RANK.jsonl"), None, "diffucode: rank 1 (127.0.0.1): {}/1.jsonl: cannot be read"),
        ((), [0], "diffucode: rank 1 (127.0.0.1) did not start within 2 s; can it be reached from here?"),
        ((), [1], "diffucode: rank 0 (127.0.0.1) did not start within 2 s; can it be reached from here?"),
    ],
)
def test_a_run_that_cannot_begin_is_one_line(tmp_path, change, ranks, line):
    args = (*supervised(tmp_path), *(one.format(tmp_path) for one in change), "--out", tmp_path / "out")
    shutil.copy(tmp_path / "texts.jsonl", tmp_path / "0.jsonl")
    assert_failed(started(tmp_path, *args, ranks=ranks, START="2" if ranks else "60"), line.format(tmp_path))
    assert not (tmp_path / "out").exists()
