"""What the README and the guides say is so."""

import os
import re
import shlex

import pytest

from mlx_diffucoder import generate, load
from mlx_diffucoder.bench.shapes import SHAPES, bits_per_weight
from mlx_diffucoder.config import HOLES, PRESETS, GenerationConfig
from mlx_diffucoder.memory import memory_to_run

from .prose import GUIDES, README, ROOT, blocks, mean_length
from .test_reference import made

PAGES = [README, *GUIDES]
NAMES = [page.stem for page in PAGES]
BASH = blocks(README, "bash")
EXAMPLE = next(block for block in blocks(README, "python") if "import" in block)


def lines_of(page):
    """The page's command lines that run diffucode, without what is piped in or out."""
    commands = [line for block in blocks(page, "bash") for line in block.splitlines() if re.search(r"(^|[ /])diffucode ", line)]
    spans = re.findall(r"`(diffucode [^`]+)`", page.read_text(encoding="utf-8"))
    for line in [*commands, *spans]:
        words = shlex.split(re.split(r"(?:^|[ /])diffucode ", line, maxsplit=1)[1], comments=True)
        ends = [index for index, word in enumerate(words) if word in ("|", "<", ">", "&&")]
        yield line, words[: min(ends, default=len(words))]


def help_of(words):
    """The help of the command that these words begin with, and how many of them name it."""
    helps = made()["helps"]
    if " ".join(words[:2]) in helps:
        return helps[" ".join(words[:2])], 2
    is_group = any(command.startswith(f"{words[0]} ") for command in helps)
    if words[0] in helps and (not is_group or not words[1:] or words[1].startswith("-")):
        return helps[words[0]], 1
    raise AssertionError(f"no such command: diffucode {' '.join(words)}")


def run(example):
    """Run a page's Python; in float32, which is fast on a CPU too."""
    exec(example.replace('load("pocket")', 'load("pocket", dtype="float32")'), {})


def test_ci_runs_exactly_the_readmes_test_command():
    command = next(
        line for block in BASH for line in block.splitlines() if line.startswith("python3") and line.endswith("pytest")
    )
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_ci_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_and_flag_of_the_readme_and_the_guides_is_in_the_help(page):
    found = list(lines_of(page))
    assert len(found) >= 2
    for line, words in found:
        if words[0] in ("--version", "--install-completion"):
            continue
        shown, count = help_of(words)
        for flag in (word.partition("=")[0] for word in words[count:] if re.match(r"--?[a-z]", word)):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown), line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_flag_named_in_a_sentence_is_some_commands(page):
    known = set(re.findall(r"--[\w-]+", " ".join(made()["helps"].values()))) | {"--version", "--install-completion"}
    spans = re.findall(r"`[^`\n]*`", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S))
    named = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert named <= known


def test_the_python_example_runs(capsys):
    assert len(EXAMPLE.splitlines()) <= 8
    run(EXAMPLE.replace("max_tokens=64", "max_tokens=64, steps=8"))
    assert "def process" in capsys.readouterr().out


@pytest.mark.parametrize("page", [page for page in GUIDES if page.stem in ("generate", "infill")], ids=lambda page: page.stem)
def test_the_guides_python_examples_run(page, capsys, monkeypatch):
    monkeypatch.setitem(HOLES, "max_tokens", 16)  # the default takes longer
    for block in blocks(page, "python"):
        if "import" in block:
            run(block)
    assert {"generate": "def process", "infill": "'x * x'"}[page.stem] in capsys.readouterr().out


def test_the_first_command_writes_what_the_readme_shows():
    line = next(line for block in BASH for line in block.splitlines() if "diffucode generate -m pocket" in line)
    shown = blocks(README, "python")[0]
    written = generate(*load("pocket", dtype="float32"), shlex.split(line)[-1], GenerationConfig(max_tokens=64))
    assert written.strip() == shown.strip()


@pytest.mark.parametrize("page", [README, *(page for page in GUIDES if page.stem == "first-7b")], ids=lambda page: page.stem)
def test_the_sizes_of_the_7b_are_those_that_doctor_computes(page):
    rows = re.findall(r"^\| .*? GB.*? \| (\d+).*? \| ([\d.]+) GB \| about ([\d.]+) GB \|$", page.read_text(), re.M)
    assert {int(bits) for bits, _, _ in rows} == {4, 8, 16}
    for bits, size, memory in rows:
        computed = int(SHAPES["7b"].config.parameters * bits_per_weight(int(bits)) / 8)
        assert (size, memory) == (f"{computed / 1e9:.2f}", f"{memory_to_run(computed) / 1e9:.1f}")


def test_the_presets_are_those_of_the_program():
    guide = next(page for page in GUIDES if page.stem == "generate").read_text()
    assert set(re.findall(r"^\| `(\w+)`", README.read_text().split("## Presets")[1].split("##")[0], re.M)) == set(PRESETS)
    for name, fields in PRESETS.items():
        assert re.search(rf"^\| `{name}`.* \| `{fields['rule']}`, `{fields['window']}` \|", guide, re.M), name


def test_the_readme_is_one_page():
    assert len(README.read_text().splitlines()) <= 150
    assert mean_length(README) <= 18
