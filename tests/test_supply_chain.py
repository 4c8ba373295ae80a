"""What continuous integration installs and runs is pinned."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"([a-z0-9-]+)==([0-9][^ ;]*)( ; .*)?")


def names(requirements):
    return {re.match(r"[A-Za-z0-9_-]+", one)[0].lower().replace("_", "-") for one in requirements}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_named_by_its_commit_and_packages_by_the_lock(path):
    text = path.read_text()
    actions = re.findall(r"uses: (.*)", text)
    assert actions
    for action in actions:
        assert re.fullmatch(r"[a-z-]+/[a-z-]+@[0-9a-f]{40} # v[0-9.]+", action), action
    assert "PIP_CONSTRAINT: ${{ github.workspace }}/.ci/constraints.txt" in text


def test_the_lock_has_every_dependency():
    lines = [line for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    locked = [PINNED.fullmatch(line) for line in lines]
    assert all(locked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][extra] for extra in ("test", "docs", "bench"))
    needed = [*project["dependencies"], *(one for extra in extras for one in extra)]
    assert names(needed) <= {one[1] for one in locked}
