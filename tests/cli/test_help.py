"""What can be asked without a model."""

import os
import pty
import shutil
import subprocess
import sys
import time

import mlx_diffucoder

from .command import COMMAND, assert_one_line, diffucode, environment


def test_help_lists_the_verbs():
    done = diffucode("--help")
    assert done.returncode == 0
    assert "generate" in done.stdout
    assert "convert" in done.stdout
    assert "compare" in done.stdout
    assert "bench" in done.stdout
    assert "doctor" in done.stdout


def test_help_answers_in_under_300_ms_or_what_a_slow_machine_makes_of_that():
    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    # The best of a few: on a busy machine the others measure what it is busy with.
    smallest = "import typer\napp = typer.Typer()\n@app.command()\ndef hello(): ...\napp(['--help'])"
    least = min(seconds(lambda: subprocess.run([sys.executable, "-c", smallest], capture_output=True)) for _ in range(7))
    assert min(seconds(lambda: diffucode("--help")) for _ in range(7)) < max(0.3, 2.5 * least)


def test_help_imports_nothing_heavy():
    script = "import sys; sys.argv = ['diffucode', '--help']\nfrom mlx_diffucoder.cli import main\n"
    script += "try: main()\nexcept SystemExit: pass\n"
    script += "print(sorted({'mlx', 'numpy', 'tokenizers', 'jinja2', 'huggingface_hub', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_generating_never_imports_transformers():
    script = "import sys; sys.argv = ['diffucode', 'generate', '-m', 'pocket', '--max-tokens', '2', 'hi']\n"
    script += "from mlx_diffucoder.cli import main\ntry: main()\nexcept SystemExit as stop: assert not stop.code\n"
    script += "print({'transformers', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout.splitlines()[-1] == "set()"


def test_version():
    assert diffucode("--version").stdout.strip() == f"diffucode {mlx_diffucoder.__version__}"


def test_completion_for_the_common_shells():
    marks = {"bash": "complete -o default -F _diffucode", "zsh": "#compdef diffucode", "fish": "complete --command diffucode"}
    for shell, mark in marks.items():
        # With this the flag takes a shell's name, where it would look for the shell it was started from.
        done = diffucode("--show-completion", shell, env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
        assert (done.returncode, done.stderr) == (0, "")
        assert mark in done.stdout
        if shutil.which(shell):
            assert subprocess.run([shell, "-n"], input=done.stdout, text=True).returncode == 0


def test_completion_is_for_the_shell_that_asks():
    done = subprocess.run(["bash", "-c", f"{COMMAND} --show-completion; true"], capture_output=True, text=True, env=environment())
    assert "complete -o default" in done.stdout


def test_wrong_usage_is_one_line_and_exit_code_2():
    assert_one_line(diffucode("generat"), "generate", code=2)
    assert_one_line(diffucode("generate", "--nope", "x"), "--nope", code=2)
    assert_one_line(diffucode("generate", "--max-tokens", "many", "x"), "--max-tokens", code=2)
    assert_one_line(diffucode("convert"), "source", code=2)


def test_ctrl_c_while_waiting_for_a_prompt_leaves_quietly():
    process = subprocess.Popen(
        [COMMAND, "generate", "-m", "pocket"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    time.sleep(1.5)
    process.send_signal(2)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in err


def test_a_closed_pipe_is_no_error_message():
    script = f"{COMMAND} generate -m pocket --max-tokens 8 hi < /dev/null | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment())
    assert done.stderr == ""


def test_help_on_a_terminal_fits_80_columns():
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "generate", "--help"], stdin=slave, stdout=slave, stderr=slave, env=environment(COLUMNS="80")
    )
    os.close(slave)
    text = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        text += chunk
    process.wait()
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode())
    assert "--max-tokens" in plain
    assert max(len(line) for line in plain.splitlines()) <= 80


def test_help_breaks_a_paragraph_only_where_the_terminal_ends():
    shown = diffucode("infill", "--help", env={"COLUMNS": "600", "TERM": "dumb"}).stdout
    assert any("A hole is written" in line and "and gets JSON back." in line for line in shown.splitlines())
