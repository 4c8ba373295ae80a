"""`diffucode convert --target-bpw --calibrate`, as a process."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from ..conftest import DATA
from .command import COMMAND, assert_one_line, diffucode, environment

SOURCE = DATA / "dream-b"


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "return n"}\n')
    return path


def test_a_dry_run_shows_the_width_of_every_layer_and_the_conversion_has_them(tmp_path, texts):
    args = ("convert", SOURCE, tmp_path / "out", "-q", "--target-bpw", 5, "--calibrate", texts)
    said = diffucode(*args, "--dry-run")
    assert said.returncode == 0, said.stderr
    assert not (tmp_path / "out").exists()
    *layers, total = said.stdout.splitlines()
    plan = {line.split()[0]: line.rpartition("  ")[2] for line in layers}
    assert len(set(plan.values()) - {"float32"}) > 2
    assert 4.9 < float(total.partition(" -> ")[2].split()[2]) <= 5
    assert "KL" in said.stderr
    done = diffucode(*args, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = {layer["name"]: layer["width"] for layer in report["layers"]}
    assert {name: f"{width['bits']} bits" if width else "float32" for name, width in found.items()} == {
        name: width.partition(",")[0] for name, width in plan.items()
    }
    calibration = report["calibration"]
    assert report["bits_per_weight"] <= calibration["target_bpw"] == 5
    assert {"kl", "order", "sum_of_kls", "texts", "positions"} <= calibration.keys()
    assert calibration["kl_alone"].keys() == {name for name in found if not name.endswith("norm")}
    assert all(kl > 0 for own in calibration["kl_alone"].values() for kl in own.values())
    assert diffucode("generate", "-m", tmp_path / "out", "--max-tokens", 4, "hi").returncode == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-q", "--target-bpw", "4.5"], ("--target-bpw needs", "--calibrate")),
        (["-q", "--calibrate", "TEXTS"], ("--calibrate needs", "--target-bpw")),
        (["--target-bpw", "4.5", "--calibrate", "TEXTS"], ("--target-bpw needs", "-q")),
        (["-q", "--target-bpw", "1", "--calibrate", "TEXTS"], ("--target-bpw 1 cannot be reached", "from 4.1")),
        (["-q", "--target-bpw", "40", "--calibrate", "TEXTS"], ("--target-bpw 40 cannot be reached", "to 32.0")),
        (["-q", "--target-bpw", "4.5", "--calibrate", "TEXTS", "--q-bits", "4"], ("--q-bits", "--target-bpw")),
        (["-q", "--target-bpw", "4.5", "--calibrate", "TEXTS", "--quant-predicate", "mixed_3_6"], ("--quant-predicate",)),
        (["-q", "--target-bpw", "4.5", "--calibrate", "TEXTS", "--dequantize"], ("--dequantize",)),
        (["-q", "--target-bpw", "4.5", "--calibrate", "nothing.jsonl"], ("nothing.jsonl: cannot be read",)),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_flag(tmp_path, texts, args, said):
    args = [str(texts) if arg == "TEXTS" else arg for arg in args]
    assert_one_line(diffucode("convert", SOURCE, tmp_path / "out", *args), *said, code=1 if "nothing.jsonl" in args else 2)
    assert {file.name for file in tmp_path.iterdir()} == {"texts.jsonl"}


def test_a_bad_text_is_named_by_its_line(tmp_path, texts):
    texts.write_text('{"text": "fine"}\n{"txt": 1}\n')
    done = diffucode("convert", SOURCE, tmp_path / "out", "-q", "--target-bpw", 5, "--calibrate", texts)
    assert_one_line(done, "texts.jsonl:2: not a known format")


def test_ctrl_c_while_measuring_leaves_nothing(tmp_path, texts):
    script = (
        "import time\n"
        "from mlx_diffucoder.convert import sensitivity\n"
        "def slow(self, options):\n"
        "    print('measuring', flush=True)\n"
        "    time.sleep(60)\n"
        "sensitivity.Probe.alone = slow\n"
        "from mlx_diffucoder.cli import main\nmain()"
    )
    args = ("convert", SOURCE, tmp_path / "out", "-q", "--target-bpw", "5", "--calibrate", texts)
    command = [sys.executable, "-c", script, *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout.readline() == b"measuring\n"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert said == (b"", b"")
    assert {file.name for file in tmp_path.iterdir()} == {"texts.jsonl"}


def test_a_terminal_sees_how_far_the_measuring_is_and_how_long_it_takes(tmp_path, texts):
    master, slave = pty.openpty()
    args = ("convert", SOURCE, tmp_path / "out", "-q", "--target-bpw", "5", "--calibrate", texts)
    process = subprocess.Popen(
        [COMMAND, *map(str, args)],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment(COLUMNS="120", TERM="xterm"),
    )
    os.close(slave)
    shown, began = b"", time.monotonic()
    while time.monotonic() - began < 60:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert process.communicate()[0].decode() == f"{tmp_path / 'out'}\n"
    assert b"measuring takes about" in shown
    assert re.search(rb"measuring.* \d+%", shown)
