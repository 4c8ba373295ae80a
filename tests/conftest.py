"""Shared fixtures: the two untrained checkpoints and the bundled trained one."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from mlx_diffucoder import load

DATA = Path(__file__).parent / "data"

# The workers that pytest starts, and the commands that tests start, share the cores: OpenBLAS takes one each.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Tests start the command a few hundred times: Python compiles it once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests press Ctrl-C in commands that they start, and a shell has its background jobs, and what they start, ignore that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes an example slow, not wrong.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


def pytest_xdist_auto_num_workers(config):
    """With `-n auto`: one more than there are cores, for a fifth of the time goes to waiting.

    None for a few files named on the command line, for whom they would start later than finish.
    """
    named = [argument.split("::")[0].endswith(".py") for argument in config.args]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if named and all(named) else cores + 1


@pytest.fixture(scope="session", params=["dream-a", "dream-b"])
def checkpoint(request):
    """A folder in the Hub's layout: `dream-a` in two shards, `dream-b` with tied embeddings."""
    return DATA / request.param


@pytest.fixture(scope="session")
def loaded(checkpoint):
    return load(checkpoint)


@pytest.fixture(scope="session")
def dream_a():
    return load(DATA / "dream-a")


@pytest.fixture(scope="session")
def dream_b():
    return load(DATA / "dream-b")


@pytest.fixture(scope="session")
def pocket():
    """The bundled checkpoint, computing in float32."""
    return load("pocket", dtype="float32")


@pytest.fixture(scope="session")
def first_pocket():
    """The first trained checkpoint, which the reference decoder's own answers were recorded with, in float32."""
    return load(DATA / "pocket-1", dtype="float32")


@pytest.fixture
def broken(tmp_path):
    """A private copy of `dream-a`, to be damaged."""
    folder = tmp_path / "dream-a"
    folder.mkdir()
    for file in (DATA / "dream-a").iterdir():
        if not file.name.startswith(("expected", "reference")):
            shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture
def edit_json():
    """Change a JSON file: `edit_json(path, key=value)`; a value of None drops the key."""

    def edit(path, **changes):
        content = json.loads(path.read_text())
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        path.write_text(json.dumps(content))

    return edit
