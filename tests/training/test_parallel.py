"""A run on two processes of MLX's ring: the weights are those of one process that does all parts."""

import json
import socket
import subprocess

import mlx.core as mx
import numpy as np
import pytest

from ..cli.command import COMMAND, diffucode, environment
from ..conftest import DATA
from .test_grpo import write_tasks

pytestmark = pytest.mark.slow
TRAIN = ("-m", DATA / "dream-b", "--dtype", "float32", "--rank", "2", "--learning-rate", "1e-2", "--steps", "3", "--seed", "1")


def on_two(folder, *args, change=lambda rank: ()):
    """Run a command as two ranks, and return their exit codes and what they wrote on stderr.

    `change` gives more arguments of a rank.
    """
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    hosts = folder / "ring.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    ranks = [
        subprocess.Popen(
            [COMMAND, *map(str, (*args, *change(rank)))],
            env=environment(MLX_RANK=str(rank), MLX_HOSTFILE=str(hosts)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [one.communicate(timeout=100)[1] for one in ranks]
    return [one.returncode for one in ranks], said


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
    codes, said = on_two(tmp_path, *args, "--out", tmp_path / "two")
    assert codes == [0, 0], said
    assert diffucode(*args, "--out", tmp_path / "one").returncode == 0
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    assert last_report(tmp_path / "two") == pytest.approx(last_report(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rank: ("--accumulate", "1"), "--accumulate must be at least 2, one batch for each process, not 1"),
        (lambda rank: ("--seed", rank), "rank 1: seed is 1 there, and 0 at rank 0"),
    ],
)
def test_runs_that_cannot_be_divided_are_refused(tmp_path, change, words):
    codes, said = on_two(tmp_path, *supervised(tmp_path), "--out", tmp_path / "out", change=change)
    assert words in said[0]
    assert all(codes)
    assert not (tmp_path / "out").exists()
