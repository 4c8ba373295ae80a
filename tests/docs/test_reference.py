"""The reference pages are what the program says of itself now."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import mlx_diffucoder

from ..cli.command import diffucode, environment

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
MADE = """
import json, sys
sys.path.insert(0, "docs")
import generate_commands as pages
from typer.testing import CliRunner

helps = {" ".join(words): CliRunner().invoke(pages.app, [*words, "--help"]).output for words, _ in pages.commands()}
print(json.dumps({"commands": pages.commands_page(), "configuration": pages.configuration_page(), "helps": helps}))
"""


@cache
def made():
    """Both pages as they would be written now, and every command's help, all from one process."""
    plain = environment(COLUMNS="200", TERM="dumb", NO_COLOR="1")
    # -B: what lies in docs/ is copied to the site.
    done = subprocess.run([sys.executable, "-B", "-c", MADE], cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def sections():
    parts = re.split(r"^## diffucode (.+)\n", (REFERENCE / "commands.md").read_text(), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_pages_in_the_checkout_are_the_ones_that_are_made_now():
    for name in ("commands", "configuration"):
        page = (REFERENCE / f"{name}.md").read_text(encoding="utf-8")
        assert page == made()[name], "run: python docs/generate_commands.py"


def test_the_command_page_has_the_options_of_the_real_help():
    assert sections().keys() == made()["helps"].keys()
    for command, shown in made()["helps"].items():
        rows = re.findall(r"^│ \*?\s*(-.*?)(?:<|  [A-Z])", shown, re.M)  # up to the kind, or the help
        in_help = {name for row in rows for name in re.findall(r"--[\w-]+", row)}
        in_page = re.findall(r"^\| (`-.*?) \|", sections()[command], re.M)
        assert {name for row in in_page for name in re.findall(r"--[\w-]+", row)} == in_help - {"--help"}, command


def test_the_command_page_has_every_example_of_the_help():
    for command, shown in made()["helps"].items():
        examples = re.findall(r"^ (.*\bdiffucode .*?)\s*$", shown.partition("\n Example")[2], re.M)
        assert bool(examples) == ("\n Example" in shown), command
        for example in examples:
            assert f"\n{example}\n" in sections()[command]


def test_the_keys_are_those_that_the_program_lists():
    page = (REFERENCE / "configuration.md").read_text()
    tables = re.split(r"^### ([\w.-]+)\n", page, flags=re.M)[1:]
    keys = {
        f"{command}.{key}"
        for command, table in zip(tables[::2], tables[1::2], strict=True)
        for key in re.findall(r"^\| `(\w+)` \|", table, re.M)
    }
    listed = set(json.loads(diffucode("config", "list", "--all", "--json").stdout))
    everywhere = {key for key in listed if "." not in key}
    assert keys == {key for key in listed - everywhere if not key.endswith(".allow_code_execution")}
    for key in everywhere:
        assert f"`{key}`" in page.partition("### ")[0]


def test_the_python_page_has_every_public_name():
    page = (REFERENCE / "python-api.md").read_text()
    assert sorted(re.findall(r"^::: mlx_diffucoder\.(\w+)", page, re.M)) == sorted(mlx_diffucoder.__all__)


def test_the_exit_codes_of_the_help_have_a_page():
    shown = " ".join(diffucode("--help", env={"COLUMNS": "200", "TERM": "dumb"}).stdout.split())
    page = (REFERENCE / "exit-codes.md").read_text()
    codes = re.findall(r"\b(\d{1,3}) ", shown.partition("Exit codes:")[2].partition("Example")[0])
    assert codes
    for code in codes:
        assert f"| {code} |" in page
