"""Terminals, taken down after the test, and a command that goes on until it is stopped."""

import json
import shutil

import pytest

from ..conftest import DATA
from .command import ENDLESS
from .terminal import Terminal


@pytest.fixture(scope="session")
def endless(tmp_path_factory):
    """A model, and options with which its answer takes minutes: on a busy machine, too, it is stopped in the middle."""
    folder = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(DATA / "dream-b", folder, ignore=shutil.ignore_patterns("expected*", "reference*"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10**6}))
    return ("-m", folder, *ENDLESS, "--max-tokens", "6000")


@pytest.fixture
def terminal(tmp_path):
    """Makes terminals: `terminal(columns, rows)`."""
    made = []

    def make(columns=80, rows=24):
        made.append(Terminal(tmp_path, columns, rows))
        return made[-1]

    yield make
    for one in made:
        one.close()
