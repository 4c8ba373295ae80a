"""Standard streams that are closed, full or broken; text on a terminal; exit codes."""

import ast
import json
import os
import pty
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from mlx_diffucoder.cli.terminal import put_json, shown
from mlx_diffucoder.formatting import visible

from ..conftest import DATA
from ..evaluation.programs import FUNCTIONS
from .command import COMMAND, diffucode, environment
from .terminal import written_to_a_terminal

CLI = Path(__file__).parents[2] / "mlx_diffucoder" / "cli"
GENERATE = f"generate -m '{DATA / 'dream-b'}' --max-tokens 4 hi"
HOSTILE = "a\x1b[31mb\x00c\u202ed\x9be"


def in_shell(line):
    return subprocess.run(["sh", "-c", line], env=environment(D=str(COMMAND)), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        *(pair for pair in product(["--version", GENERATE], [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])),
        ("config path", "<&- >&- 2>&-"),
    ],
)
def test_a_closed_stream_changes_nothing_else(command, closed):
    done = in_shell(f'"$D" {command} {closed}')
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_an_error_that_quotes_a_very_long_value_keeps_its_start_and_its_end(tmp_path):
    (tasks := tmp_path / "tasks.jsonl").write_text(json.dumps({"task_id": ["x" * 10_000], "text": "a", "test_list": ["b"]}))
    done = diffucode("eval", tasks, "--allow-code-execution")
    assert done.stderr.startswith(f"diffucode: {tasks}:1: task_id is ['xxx")
    assert done.stderr.endswith("xxx']; it must be text or a whole number\n")
    assert (done.returncode, len(done.stderr)) < (2, 2100)


def test_a_file_does_not_take_the_place_of_a_closed_stdout(tmp_path):
    trace = tmp_path / "run.jsonl"
    assert in_shell(f'"$D" {GENERATE} --trace {trace} >&- 2>&-').returncode == 0
    for line in trace.read_text().splitlines():
        json.loads(line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("command", ["--version", "--help", "rules", "config list --all", GENERATE])
def test_a_full_disk_under_stdout_is_one_line(command):
    done = in_shell(f'"$D" {command} >/dev/full')
    assert done.returncode == 1
    assert done.stderr == "diffucode: stdout: cannot be written (No space left on device)\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_under_stderr_stops_nothing():
    done = in_shell(f'"$D" {GENERATE} -v 2>/dev/full')
    assert done.returncode == 0
    assert done.stdout


def test_a_folder_for_temporary_files_that_is_not_there_stops_nothing(tmp_path):
    done = diffucode("rules", env={"TMPDIR": str(tmp_path / "none")})
    assert done.returncode == 0


def test_visible_text_moves_no_cursor_and_turns_no_direction():
    assert visible(HOSTILE) == "a␛[31mb␀c\ufffdd\ufffde"
    assert visible("tab\tline\r\nend") == "tab\tline\nend"


def test_a_file_or_a_pipe_gets_every_byte(tmp_path):
    with (tmp_path / "out").open("w") as file:
        assert shown(HOSTILE, file) == HOSTILE


def test_an_error_reaches_a_terminal_without_control_characters(tmp_path):
    name = "no\x1b]0;title\x07\u202esuch"
    output, code = written_to_a_terminal("trace", "show", tmp_path / name)
    assert code == 1
    assert "no␛]0;title␇\ufffdsuch" in output
    assert "\x1b]" not in output
    assert name in diffucode("trace", "show", tmp_path / name).stderr


def test_json_on_a_terminal_is_the_same_value_in_escapes(monkeypatch):
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        put_json({"text": HOSTILE + "é\n"})
        written = os.read(reader, 1000).decode()
    os.close(reader)
    assert json.loads(written) == {"text": HOSTILE + "é\n"}
    assert "é" in written
    assert visible(written) == written.replace("\r", "")


def test_every_print_of_the_command_line_goes_through_one_module():
    for path in CLI.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert path.name == "terminal.py" or "print" not in names, path


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "-m", "pocket", "--max-tokens", "0", "x"),
        ("generate", "-m", "pocket", "--rule", "none", "x"),
        ("generate", "-m", "pocket", "--no-such-option", "x"),
        ("infill", "-", "--at", "x"),
        ("infill", "-", "--write"),
        ("trace", "show", "x", "--speed", "0"),
        ("trace", "animate", "x", "--out", "x.png"),
        ("trace", "compare", "x", "y", "--rows", "1"),
        ("generate", "-m", "pocket", ""),
        ("generate", "-m", "pocket", "--revision", "v1", "x"),
        ("generate", "-m", "a/b", "--revision", "../c", "x"),
        ("generate", "-m", "a/b@c", "--revision", "d", "x"),
        ("generate", "-m", "pocket", "--tests", "x", "x"),
        ("eval", "x"),
        ("compare", "pocket", "pocket", "--tasks", "x"),
        ("config", "set", "generate.max_tokens", "x"),
        ("config", "set", "generate.nothing", "1"),
        ("config", "set", "eval.allow_code_execution", "true"),
        ("no-such-command",),
    ],
)
def test_wrong_usage_is_2(arguments):
    done = diffucode(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("diffucode: ")
    assert done.stdout == ""


def test_a_stopped_command_does_not_wait_for_its_threads():
    script = (
        "import threading, time; from mlx_diffucoder.cli import app, main; app.run = lambda: 130;"
        " threading.Thread(target=time.sleep, args=(60,)).start(); main()"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 130


LONG = {
    "fuse": (
        "mlx_diffucoder.convert.converter._prepare",
        ("-m", DATA / "dream-a", "--adapter", DATA / "d2f-a", "--out", "{}/out"),
    ),
    "convert": ("mlx_diffucoder.convert.converter.write_weights", (DATA / "dream-b", "{}/out")),
    "eval": (
        "mlx_diffucoder.evaluation.run._answered",
        (FUNCTIONS, "-m", DATA / "dream-b", "--allow-code-execution", "--out", "{}/r.jsonl"),
    ),
    "train": ("mlx_diffucoder.training.trainer.Trainer._step", ("-m", DATA / "dream-b", "--data", FUNCTIONS, "--out", "{}/out")),
}


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", LONG)
def test_a_signal_ends_every_command_with_its_own_code(command, stop, code, monkeypatch, tmp_path):
    def slow(*args, **options):
        for _ in range(2):  # training saves at the first
            os.kill(os.getpid(), stop)
            time.sleep(0.01)
        time.sleep(10)

    patched, args = LONG[command]
    monkeypatch.setattr(patched, slow)
    done = diffucode(command, *(str(arg).replace("{}", str(tmp_path)) for arg in args))
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "config.json").exists()
    assert not list(tmp_path.glob(".*"))
