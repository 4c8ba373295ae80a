"""Every study and the recipe of the bundled model start with the command that runs them, and it is a command they take."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.stem for path in (ROOT / "bench" / "studies").glob("*.py"))
MODULES = [f"bench.studies.{name}" for name in STUDIES if name not in ("__init__", "terminal")] + ["bench.pocket.recipe"]


def command_of(module):
    if hasattr(module, "app"):
        return module.app
    app = typer.Typer()
    app.command()(module.main)
    return app


@pytest.mark.parametrize("name", MODULES)
def test_it_starts_with_a_command_that_it_takes(name):
    module = importlib.import_module(name)
    lines = re.findall(rf"^    python -m {re.escape(name)}(?: (.*))?$", module.__doc__, re.M)
    assert lines, f"{name}: no line '    python -m {name}' in its docstring"
    assert module.__doc__.index(f"python -m {name}") < 400, f"{name}: the command stands too far below"
    command = typer.main.get_command(command_of(module))
    for line in lines:
        words = shlex.split(line)
        taking = command.commands[words.pop(0)] if hasattr(command, "commands") else command
        taking.make_context(name, words)  # raises for options and arguments that it does not take


@pytest.mark.parametrize("name", MODULES)
def test_its_help_says_what_it_does(name):
    done = CliRunner().invoke(command_of(importlib.import_module(name)), ["--help"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^ [A-Z][a-z]+ \w+", done.output.split("Usage:")[1], re.M)


def test_the_task_maker_starts_with_its_command_and_has_a_help(monkeypatch, capsys):
    module = importlib.import_module("bench.pocket.maker.__main__")
    assert "    python -m bench.pocket.maker FOLDER\n" in module.__doc__
    monkeypatch.setattr(sys, "argv", ["maker", "--help"])
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 0
    assert "usage: python -m bench.pocket.maker" in capsys.readouterr().out
