"""`diffucode doctor` as a user starts it."""

import json
import subprocess
import sys

from mlx_diffucoder.loading import DEFAULT_MODEL

from .command import diffucode, environment


def test_doctor_says_what_this_machine_is_and_that_it_is_right(tmp_path):
    done = diffucode("doctor", "--quick", env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("versions   python 3.")
    for label in ("chip", "memory", "system", "power", "7B", "Hub cache", "self-test"):
        assert any(line.startswith(label) for line in lines), label
    assert any(" 4 bits:  4.28 GB, about  4.71 GB to run" in line for line in lines)
    assert f"{DEFAULT_MODEL}: not downloaded" in done.stdout
    for check in (
        "logits in float32",
        "logits in float16",
        "logits in bfloat16",
        "8 bits in",
        "4 bits in",
        "answer 1 in float32",
    ):
        assert any(" right: " in line and check in line for line in lines), check
    assert "WRONG" not in done.stdout


def doctor_with(patch, *args, env=None):
    """`diffucode doctor ARGS` in a process whose self-test has been tampered with."""
    script = "import sys\nfrom types import SimpleNamespace\nimport mlx_diffucoder.bench.self_test as checks\n"
    script += (
        f"{patch}\nsys.argv = ['diffucode', 'doctor', '--quick', *{list(args)!r}]\nfrom mlx_diffucoder.cli import main\nmain()\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(**(env or {})))


WRONG = "checks.self_test = lambda: iter([checks.Check(name='logits in float16', error=0.5, allowed=0.005, seconds=1.0)])"
RIGHT = "checks.self_test = lambda: iter([checks.Check(name='logits in float16', error=0.001, allowed=0.005, seconds=1.0)])"


def test_a_failed_check_is_exit_code_1_and_one_line_that_names_it():
    done = doctor_with(WRONG)
    assert done.returncode == 1
    assert "WRONG: logits in float16" in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    for words in ("diffucode: self-test: logits in float16", "5.0e-01", "5e-03 allowed", "--force-reinstall"):
        assert words in done.stderr


def test_a_failed_check_is_in_the_json_too():
    done = doctor_with(WRONG, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["self_test"][0]["right"] is False


def test_the_report_as_json_holds_what_a_script_would_ask(tmp_path):
    snapshot = tmp_path / "hub" / ("models--" + DEFAULT_MODEL.replace("/", "--")) / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "tokenizer.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(bytes(5000))
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    done = doctor_with(RIGHT, "--json", env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {"python", "mlx", "mlx-lm", "mlx_diffucoder"} == said["versions"].keys()
    assert said["hub_cache"]["bytes"] == 5004
    sizes = {row["bits"]: (row["bytes"], row["memory_to_run"]) for row in said["memory"]["7b"]}
    assert sizes[16] == (15_231_233_024, 16_754_356_326)
    assert {row["fits"] for row in said["memory"]["7b"]} <= {"fits", "tight", "no"}
    assert said["self_test"][0]["right"] is True
    assert str(snapshot / "config.json") in said["checkpoint"]["problem"]


def test_the_report_as_json_is_what_an_issue_needs():
    done = doctor_with(RIGHT, "--json", "-m", "pocket", env={"MLX_METAL_GPU_ARCH": "applegpu_g13g"})
    said = json.loads(done.stdout)
    assert said["checkpoint"] == {"name": "pocket", "bits": [], "modes": [], "scales": [], "types": ["float16"]}
    found = said["environment"]
    assert found["wheels"]["mlx"]["version"] == said["versions"]["mlx"]
    assert found["wheels"]["mlx"]["tags"]
    assert found["device_info"]["architecture"]
    assert found["variables"] == {"MLX_METAL_GPU_ARCH": "applegpu_g13g"}
    assert {"macos", "wired_limit_mb", "swap", "free_bytes", "default_device"} < found.keys()
