"""What can be asked without a model."""

import json
import re
import shutil
import subprocess
import sys
import time
from functools import cache

import pytest
import typer

import mlx_diffucoder
from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.choices import RULES, WINDOWS
from mlx_diffucoder.cli.app import app
from mlx_diffucoder.cli.command import commands_of, options_of
from mlx_diffucoder.config import HOLES, PRESETS

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
    heavy = {"mlx", "numpy", "tokenizers", "jinja2", "huggingface_hub", "transformers", "starlette", "mlx_diffucoder.models"}
    script += f"print(sorted({heavy} & set(sys.modules)))"
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


@cache
def helps():
    """The help of the program, of every group and of every command at 80 columns, by their words."""
    return {words: diffucode(*words, "--help", env={"COLUMNS": "80"}).stdout for words in every_command()}


def every_command():
    def below(command, words):
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, (*words, name))

    return list(below(typer.main.get_command(app), ()))


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_help_is_whole_at_80_columns(words):
    shown = helps()[words]
    assert "Usage: diffucode" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "…" not in shown
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    for one in command.params:  # each name and each text is there to the last word
        if one.param_type_name == "option":
            for name in [*one.opts, *one.secondary_opts]:
                assert re.search(rf"(^|[ ,│]){re.escape(name)}(?![\w-])", shown), name
            assert " ".join(one.help.split()) in flowing(shown), one.name


def flowing(shown):
    """The last column of the panels as one text, and what is outside of them."""
    rows = [re.sub(r"^.*\s{2,}(?=\S)", "", line.strip("│ ")) for line in shown.splitlines()]
    return " ".join(" ".join(rows).split())


def test_rules_are_whole_at_80_columns_and_list_every_parameter_with_its_default():
    shown = diffucode("rules").stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "…" not in shown
    text = " ".join(shown.split())
    for name, choice in [*RULES.items(), *WINDOWS.items()]:
        assert f" {name} {choice.summary} " in text
        for key, parameter in choice.parameters.items():
            assert f" {key}={parameter.default:g} {parameter.meaning} " in text
    for name, own in PRESETS.items():
        assert f" {name} --rule {own['rule']} --window {own['window']}" in text


def test_rules_as_json():
    found = json.loads(diffucode("rules", "--json").stdout)
    assert found["rules"]["threshold"]["parameters"]["tau"]["default"] == 0.9
    assert set(found["windows"]) == set(WINDOWS)
    assert found["presets"]["balanced"] == PRESETS["balanced"]


def test_rules_and_windows_are_named_in_the_help_of_generate():
    shown = flowing(helps()["generate",])
    assert ", ".join(RULES) in shown
    assert ", ".join(WINDOWS) in shown
    assert "diffucode rules" in shown


def test_shown_defaults_are_those_that_decode():
    for words, usual in ((("generate",), {}), (("chat",), {}), (("eval",), {"seed": 0}), (("infill",), HOLES)):
        config = GenerationConfig(**usual)
        for option in options_of(dict(commands_of(typer.main.get_command(app)))[words]):
            unset = ("preset", "rule", "window", "until", "ban_tokens", *(["max_tokens"] if option.default is None else []))
            if hasattr(config, option.parameter) and option.parameter not in unset:
                assert option.default == getattr(config, option.parameter), option.parameter


def test_help_breaks_a_paragraph_only_where_the_terminal_ends():
    shown = diffucode("infill", "--help", env={"COLUMNS": "600", "TERM": "dumb"}).stdout
    assert any("Mark a hole with" in line and "and gets JSON back." in line for line in shown.splitlines())
