"""`diffucode convert`, as a process."""

import contextlib
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
from ..hub import local_hub, receiving_hub
from .command import COMMAND, assert_ends_at_once, assert_one_line, diffucode, environment


def test_a_folder_is_converted_and_runs(tmp_path):
    out = tmp_path / "new" / "four-bit"
    done = diffucode(
        "convert",
        DATA / "dream-a",
        out,
        "-q",
        "--q-bits",
        "4",
        "--q-group-size",
        "32",
        "--q-mode",
        "affine",
        "--dtype",
        "float16",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert json.loads((out / "config.json").read_text())["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert diffucode("generate", "-m", out, "--max-tokens", "4", "hi").returncode == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-q", "--q-bits", "7"], "--q-bits"),
        (["-q", "--q-group-size", "5"], "--q-group-size"),
        (["-q", "--q-mode", "mxpf4"], 'did you mean "mxfp4"?'),
        (["--q-bits", "4"], "-q"),
        (["--dtype", "Float16"], '--dtype must be one of bfloat16, float16, float32, not "Float16"; did you mean "float16"?'),
    ],
)
def test_an_impossible_option_names_its_flag_and_writes_nothing(tmp_path, args, said):
    assert_one_line(diffucode("convert", DATA / "dream-b", tmp_path / "out", *args), said, code=2)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_out_is_refused(tmp_path):
    assert_one_line(diffucode("convert", DATA / "dream-b", tmp_path), str(tmp_path), "exists already")


def test_an_out_that_cannot_be_written_is_known_before_the_download(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("")
    with local_hub("someone/dream-b", DATA / "dream-b") as (endpoint, served):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        assert_one_line(diffucode("convert", "someone/dream-b", folder / "out", env=env), "cannot be written")
        assert served.weights == []
        done = diffucode("convert", "someone/dream-b", tmp_path / "out", env=env)
        assert done.returncode == 0, done.stderr
        assert "%" not in done.stderr  # no bars where there is no terminal
        card = (tmp_path / "out" / "README.md").read_text()
        assert "license: mit" in card
        assert "base_model: someone/dream-b" in card


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    script = f'ulimit -f 100; "{COMMAND}" convert "{DATA / "dream-a"}" "{tmp_path / "out"}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment(), stdin=subprocess.DEVNULL)
    assert_one_line(done, "out: cannot be")
    assert list(tmp_path.iterdir()) == []


def test_names_with_brackets_are_names(tmp_path):
    assert_one_line(diffucode("convert", "[/x]", tmp_path / "out"), "[/x]")


def test_a_source_that_is_no_checkpoint_is_named(tmp_path, broken):
    assert_one_line(diffucode("convert", "./nowhere", tmp_path / "out"), "./nowhere")
    (broken / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert_one_line(diffucode("convert", broken, tmp_path / "out"), "model-00001-of-00002.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_every_layer_and_writes_nothing(tmp_path):
    args = ("convert", DATA / "dream-a", tmp_path / "out", "-q", "--quant-predicate", "mixed_4_6", "--dry-run")
    done = diffucode(*args)
    assert done.returncode == 0, done.stderr
    *layers, last = done.stdout.splitlines()
    plan = json.loads(diffucode(*args, "--json").stdout)
    assert [line.split()[0] for line in layers] == [layer["name"] for layer in plan["layers"]]
    head = plan["layers"][-1]
    assert head["name"] == "lm_head"
    assert head["width"] == {"bits": 6, "group_size": 64, "mode": "affine"}
    assert layers[-1].endswith("0.39 MB ->   0.09 MB  6 bits, affine, groups of 64")
    for said in ("0.6 M weights", "2.56 MB ->", "bits per weight", "of memory to run it"):
        assert said in last
    assert plan["memory_to_run"] > plan["bytes_out"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_downloads_no_weights(tmp_path):
    with local_hub("someone/dream-b", DATA / "dream-b") as (endpoint, _):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        done = diffucode("convert", "someone/dream-b", tmp_path / "out", "--dry-run", env=env)
        assert done.stdout == diffucode("convert", DATA / "dream-b", tmp_path / "out", "--dry-run").stdout
        assert not list(tmp_path.rglob("*.safetensors"))
        assert_one_line(diffucode("convert", "someone/x", tmp_path / "out", "--dry-run", env=env), "no such model")


def test_json_says_what_was_made(tmp_path):
    done = diffucode("convert", DATA / "dream-a", tmp_path / "out", "-q", "--json")
    result = json.loads(done.stdout)
    assert result["out"] == str(tmp_path / "out")
    assert result["bytes_out"] < result["bytes_in"]
    assert result["uploaded"] is None


def test_quantized_and_dequantized_it_still_runs(tmp_path):
    four, back = tmp_path / "four", tmp_path / "back"
    assert diffucode("convert", DATA / "dream-a", four, "-q", "--quant-predicate", "mixed_3_6").returncode == 0
    assert_one_line(diffucode("convert", four, tmp_path / "again", "-q"), str(four), "quantized already")
    assert diffucode("convert", four, back, "--dequantize", "--dtype", "bfloat16").returncode == 0
    assert "quantization" not in json.loads((back / "config.json").read_text())
    assert diffucode("generate", "-m", back, "--max-tokens", "4", "hi").returncode == 0


def test_an_upload_puts_the_whole_folder_there_with_a_card(tmp_path):
    out = tmp_path / "out"
    with receiving_hub("me/dream-4bit") as (endpoint, asked, files):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_" + "a" * 34}
        done = diffucode("convert", DATA / "dream-a", out, "-q", "--upload", "me/dream-4bit", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["uploaded"] == f"{endpoint}/me/dream-4bit"
    assert asked.index("/api/whoami-v2") < asked.index("/api/repos/create")
    assert files == {file.name: file.read_bytes() for file in out.iterdir()}
    card = files["README.md"].decode()
    assert "diffucode generate --model me/dream-4bit" in card
    assert "4 bits, affine, groups of 64; 5.07 bits per weight" in card


def test_an_upload_that_cannot_work_is_known_before_anything_is_converted(tmp_path):
    with receiving_hub("me/x") as (endpoint, _, files):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")}
        args = ("convert", DATA / "dream-b", tmp_path / "out", "--upload")
        assert_one_line(diffucode(*args, "me/x", env=env), "me/x", "hf auth login")
        assert_one_line(diffucode(*args, "not an id", env=env), "--upload not an id", "not a valid Hub id", code=2)
        assert_one_line(diffucode(*args, "x", env=env), "--upload x", "owner/name", code=2)
        assert files == {}
    assert not (tmp_path / "out").exists()


def test_an_upload_that_is_refused_keeps_the_folder_and_says_so(tmp_path):
    out = tmp_path / "out"
    with receiving_hub("me/x", refuse="/commit/main") as (endpoint, *_):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_" + "a" * 34}
        done = diffucode("convert", DATA / "dream-b", out, "--upload", "me/x", env=env)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("diffucode: me/x: ")
    assert "wrote" in done.stderr
    assert (out / "config.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_upload_ends_at_once_and_keeps_the_folder(tmp_path, number, code):
    out = tmp_path / "out"
    with receiving_hub("me/x", hang="/preupload/main") as (endpoint, asked, _):
        env = environment(HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf"), HF_TOKEN="hf_" + "a" * 34)
        command = [COMMAND, "convert", DATA / "dream-b", out, "--upload", "me/x"]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, env=env, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
        )
        deadline = time.monotonic() + 60
        while not any(path.endswith("/preupload/main") for path in asked) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert_ends_at_once(process, number, code)
    assert (out / "config.json").exists()


def test_a_bar_on_a_terminal_shows_the_weight_and_the_bytes(tmp_path):
    master, slave = pty.openpty()
    script = "from mlx_diffucoder.convert import stream\nstream.CHUNK = 5000\nfrom mlx_diffucoder.cli import main\nmain()"
    command = [sys.executable, "-c", script, "convert", DATA / "dream-a", tmp_path / "out"]
    process = subprocess.Popen(
        command, stdin=slave, stdout=subprocess.PIPE, stderr=slave, env=environment(COLUMNS="120", TERM="xterm")
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    assert process.communicate()[0].decode() == f"{tmp_path / 'out'}\n"
    assert re.search(rb"(lm_head|model\.\S+)\.weight", shown)
    assert re.search(rb"/2\.6.MB", shown)
