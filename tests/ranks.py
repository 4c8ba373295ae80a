"""Processes that compute one model together, on this machine: started by the variables that mlx.launch sets."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_diffucoder.checkpoint import structure
from mlx_diffucoder.loading import local_folder

COMMAND = [sys.executable, "-m", "mlx_diffucoder"]


def hosts(folder, count):
    """A hosts file for `count` processes on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    file = folder / "ring.json"
    file.write_text(json.dumps([[f"127.0.0.1:{one.getsockname()[1]}"] for one in sockets]))
    for one in sockets:
        one.close()
    return file


def start(folder, count, command, *, ranks=None, **variables):
    """Start the processes of some ranks, of all by default; their stdin is a pipe that nobody closes, as mlx.launch has it."""
    environ = {**os.environ, "MLX_HOSTFILE": str(hosts(folder, count)), "PYTHONUNBUFFERED": "1", **variables}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([str(one) for one in command], env={**environ, "MLX_RANK": str(rank)}, **pipes)
        for rank in (range(count) if ranks is None else ranks)
    ]


def ended(processes, seconds=60):
    """The exit code, stdout and stderr of each process."""
    found = []
    try:
        for one in processes:
            out, err = one.communicate(timeout=seconds)
            found.append((one.returncode, out, err))
    finally:
        for one in processes:
            one.kill()
            one.wait()
    return found


def synthetic(folder, **changes):
    """A checkpoint of random weights with the tokenizer of the bundled model, and another shape."""
    folder.mkdir()
    for file in Path(local_folder("pocket")).iterdir():
        if file.suffix in (".json", ".txt") and "index" not in file.name:
            shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text()) | {"torch_dtype": "float32"} | changes
    (folder / "config.json").write_text(json.dumps(config))
    from mlx_diffucoder.models import family_of
    from mlx_diffucoder.models.transformer import DiffusionModel

    family = family_of(config)
    mx.random.seed(0)
    model = DiffusionModel(family.read_config(config, {}), family)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    structure(folder)
    return folder
