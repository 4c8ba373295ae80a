"""Every reader of files, with damaged files: it reads them or raises an error of the program, soon and in little memory.

`FUZZ_SECONDS` is the time of all readers together, `FUZZ_SEED` the seed of the damage. A failure leaves its file in
pytest's temporary folder, and names the seed of the damage.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from mlx_diffucoder import load
from mlx_diffucoder.bench.report import read_report
from mlx_diffucoder.chat import Chat
from mlx_diffucoder.cli.settings import read_file
from mlx_diffucoder.data import encode_samples, read_samples
from mlx_diffucoder.errors import DiffucoderError
from mlx_diffucoder.infilling.editor import read_request
from mlx_diffucoder.infilling.file import cut
from mlx_diffucoder.tasks import read_tasks
from mlx_diffucoder.trace.animation import animation_of
from mlx_diffucoder.trace.comparison import agreement, numbers
from mlx_diffucoder.trace.page import page_of
from mlx_diffucoder.trace.reader import read_trace

from ..conftest import DATA
from .damage import damaged

pytestmark = pytest.mark.slow  # `.ci/run` runs it in its second call

SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
HANGS, MEMORY = 5, 500e6  # seconds, and bytes above the start
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss

TASKS = [
    {"task_id": 1, "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(f): f(1)", "canonical_solution": "  return x"},
    {"task_id": 2, "text": "Write g.", "test_list": ["assert g()"], "code": "def g(): return 1", "test_setup_code": ""},
    {"task_id": 3, "prompt": "def h(x):\n", "entry_point": "h", "canonical_solution": " 1", "base_input": [[1]], "atol": 0.1},
]
HOLES = [{**TASKS[0], "suffix": "\n    return y\n"}]
ROWS = [
    {"prompt": "Say hi.", "completion": "hi"},
    {"text": "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>"},
    {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
]
STEP = {"step": 0, "seconds": 1, "nfe": 1, "positions": 9, "window": [0, 9], "at": [1], "tokens": [6], "scores": [0.5]}
HEAD = {"version": "0", "model": "m", "tokenizer": "t", "mask": 3, "pad": 2, "ends": [1], "pieces": {"5": "a", "6": "b"}}
ANSWER = [
    {"diffucode_trace": 1, **HEAD, "config": {"prefill": "a", "until": ["b"]}, "canvas": [5, -8], "start": 1},
    STEP | {"back": [2], "others": [[3], [6]]},
    {"end": "done", "seconds": 2},
]
CANVASES = [
    {"diffucode_trace": 2, **HEAD, "config": {}, "texts": [[5], [6]], "frame": {"prompt": 0, "leads": [" "], "tails": ["\n"]}},
    {"row": 1, "seconds": 0, "lengths": [8]},
    STEP | {"row": 1},
    {"end": "done", "seconds": 2, "kept": 1},
]
TOML = b'model = "pocket"\n[generate]\ntemperature = 0.5\nuntil = ["a"]\n[bench.run]\ntrials = 3\n'
CHAT = {"diffucode_chat": 1, "system": "x", "turns": [{"user": "a", "answer": "b"}]}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@cache
def bundled_tokenizer():
    return load("pocket", lazy=True)[1]


def read_texts(path):
    encode_samples(read_samples(path), bundled_tokenizer(), 512)


def show_trace(path):
    trace = read_trace(path)
    numbers(trace), agreement(trace, trace), page_of(trace).encode(), trace.text
    list(trace.steps())
    animation_of(trace).encode()


def load_folder(path):
    _, tokenizer = load(path.parent)
    tokenizer.encode_chat("Say hi.")


FOLDERS = {
    "config": (DATA / "dream-b", "config.json"),
    "generation config": (DATA / "dream-b", "generation_config.json"),
    "weights": (DATA / "dream-b", "model.safetensors"),
    "vocabulary": (DATA / "dream-b", "vocab.json"),
    "merges": (DATA / "dream-b", "merges.txt"),
    "tokenizer config": (DATA / "dream-b", "tokenizer_config.json"),
    "index": (DATA / "pocket-1", "model.safetensors.index.json"),
    "tokenizer": (DATA / "pocket-1", "tokenizer.json"),
}
READERS = {
    **{name: (load_folder, [(folder / file).read_bytes()]) for name, (folder, file) in FOLDERS.items()},
    "chat template": (load_folder, [json.loads((DATA / "dream-b/tokenizer_config.json").read_text())["chat_template"].encode()]),
    "tasks": (read_tasks, [lines(TASKS), json.dumps(TASKS).encode(), lines(HOLES)]),
    "texts": (read_texts, [lines(ROWS), json.dumps(ROWS).encode(), lines(TASKS[:1])]),
    "trace": (show_trace, [lines(ANSWER), lines(CANVASES)]),
    "settings": (read_file, [TOML]),
    "chat": (Chat.load, [json.dumps(CHAT).encode()]),
    "bench report": (read_report, [b"{}"]),
    "editor": (lambda path: read_request(path.read_bytes()), [b'{"prefix": "a", "suffix": "b"}', b'{"parts": ["a", null, 3]}']),
    "markers": (
        lambda path: cut("x.py", path.read_bytes(), "<FILL>", None, None),
        [b"a = <FILL>\nb = <FILL:12>\r\n<FILL:", b"<FILL>"],
    ),
}
FILES = {"chat template": "chat_template.jinja", **{name: file for name, (_, file) in FOLDERS.items()}}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(tmp_path, name):
    read, wholes = READERS[name]
    path = tmp_path / FILES.get(name, "file.jsonl")
    if read is load_folder:
        folder, _ = FOLDERS.get(name, (DATA / "dream-b", ""))
        for file in folder.iterdir():
            if not file.name.startswith(("expected", "reference")):
                shutil.copyfile(file, tmp_path / file.name)
    for whole in wholes:  # what is not damaged is read
        path.write_bytes(whole)
        refused = _outcome(read, path)
        assert refused is None or name == "bench report", refused
    start, end, number = peak(), time.monotonic() + SECONDS / len(READERS), 0
    while time.monotonic() < end:
        number += 1
        path.write_bytes(damaged(random.Random(f"{SEED} {name} {number}"), wholes, header=name == "weights"))
        before = time.thread_time()
        message = _outcome(read, path)
        assert message is None or message.strip(), number
        assert time.thread_time() - before < HANGS, number
        assert peak() - start < MEMORY, number


def _outcome(read, path: Path):
    """The message of the program's own error, if there is one."""

    def hangs(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(4 * HANGS)
    try:
        read(path)
    except DiffucoderError as error:
        return str(error)
    finally:
        signal.alarm(0)
    return None
