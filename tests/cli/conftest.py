"""Terminals, taken down after the test."""

import pytest

from .terminal import Terminal


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
