"""`diffucode convert`, as a process."""

import json
import subprocess

import pytest

from ..conftest import DATA
from ..hub import local_hub
from .command import COMMAND, assert_one_line, diffucode, environment


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
        (["-q", "--q-mode", "fp1"], "--q-mode"),
        (["--q-bits", "4"], "-q"),
        (["--dtype", "int3"], "--dtype"),
    ],
)
def test_an_impossible_option_names_its_flag_and_writes_nothing(tmp_path, args, said):
    assert_one_line(diffucode("convert", DATA / "dream-b", tmp_path / "out", *args), said)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_out_is_refused(tmp_path):
    assert_one_line(diffucode("convert", DATA / "dream-b", tmp_path), str(tmp_path), "exists already")


def test_an_out_that_cannot_be_written_is_known_before_the_download(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("")
    with local_hub("someone/dream-b", DATA / "dream-b") as (endpoint, fetched):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        assert_one_line(diffucode("convert", "someone/dream-b", folder / "out", env=env), "cannot be written")
        assert fetched == []
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
