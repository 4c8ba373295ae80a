"""The site's pages are all reachable, and name things that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
IDS = [str(page.relative_to(DOCS)) for page in PAGES]


def nav_pages(entry):
    """The files that a part of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for one in inner for page in nav_pages(one)]


def test_every_page_is_in_the_navigation_once():
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert sorted(nav_pages(project["nav"])) == IDS


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_pictures_exist(page):
    for target in re.findall(r"!\[[^\]]*\]\(([^)#\s]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_modules_that_a_page_runs_exist(page):
    for name in re.findall(r"python -m ((?:bench|mlx_diffucoder)[\w.]*)", page.read_text()):
        path = ROOT.joinpath(*name.split("."))
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert file.is_file(), name
        assert path.is_dir() or "__main__" in file.read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_a_page_names_exist(page):
    for name in re.findall(r"`((?:mlx_diffucoder|convert|bench|tests)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_option_in_a_command_is_in_the_reference(page):
    reference = (DOCS / "reference" / "commands.md").read_text()
    known = set(re.findall(r"`(--?[\w-]+)`", reference)) | {"--help", "--version", "--install-completion", "--show-completion"}
    for block in re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text(), re.S):
        for command in re.findall(
            r"diffucode (?:generate|infill|chat|convert|eval|compare|train|fuse|doctor|bench|trace) .*", block
        ):
            said = re.sub(r"\"[^\"]*\"|'[^']*'", "", command.partition(" #")[0].partition(" |")[0])
            assert set(re.findall(r"(?<=\s)(--?[a-z][\w-]*)", said)) <= known, command
