"""What the README says is so."""

import os
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from .cli.command import diffucode

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BASH = re.findall(r"```bash\n(.*?)```", README, re.S)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


def test_ci_runs_exactly_the_readmes_test_command():
    command = next(
        line for block in BASH for line in block.splitlines() if line.startswith("python3") and line.endswith("pytest")
    )
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_flag_in_the_readme_is_in_the_help():
    commands = [line for block in BASH for line in block.splitlines() if "diffucode " in line]
    assert len(commands) >= 6
    shown_by = cache(lambda *verbs: diffucode(*verbs, "--help", env={"COLUMNS": "200", "TERM": "dumb"}).stdout)
    for command in commands:
        words = shlex.split(command.split("diffucode ", 1)[1], comments=True)
        words = words[: words.index("|")] if "|" in words else words
        shown = shown_by(words[0])
        below = len(words) > 1 and re.search(rf"^\W*{re.escape(words[1])}\s", shown.partition("Commands")[2], re.M)
        shown = shown_by(*words[:2]) if below else shown
        for flag in (word for word in words if word.startswith("-") and word != "-"):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown), (command, flag)


def test_the_python_example_runs(capsys):
    namespace = {}
    exec(PYTHON[1].replace("max_tokens=64", "max_tokens=64, steps=8"), namespace)
    assert "def process" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_ci_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
