"""Files that a user names are read through one door, which a pipe, a device or an absurd size does not pass."""

import os
from pathlib import Path

import pytest

from mlx_diffucoder.bench.report import read_report
from mlx_diffucoder.best_of import read_tests
from mlx_diffucoder.chat import Chat
from mlx_diffucoder.cli.settings import read_file
from mlx_diffucoder.data import read_samples
from mlx_diffucoder.errors import DiffucoderError, TaskError
from mlx_diffucoder.file_kinds import read_bytes
from mlx_diffucoder.infilling.file import read_bytes as read_text_file
from mlx_diffucoder.tasks import read_tasks
from mlx_diffucoder.trace.reader import read_trace

READERS = {
    "tasks": read_tasks,
    "texts": read_samples,
    "trace": read_trace,
    "chat": Chat.load,
    "tests": lambda path: read_tests(path, "prompt"),
    "file to infill": read_text_file,
    "settings": read_file,
    "bench report": read_report,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "vast"])
def test_what_is_no_regular_file_of_a_reasonable_size_is_refused_at_once(tmp_path, reader, kind):
    path = tmp_path / "file"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "vast":
            with path.open("wb") as file:
                file.truncate(2**40)
    message = "may have at most" if kind == "vast" else f"cannot be read: it is a {kind}"
    with pytest.raises(DiffucoderError, match=f"file: .*{message}"):
        READERS[reader](path)


def test_a_pipe_that_the_shell_made_is_read():
    ours, theirs = os.pipe()
    os.write(theirs, b"{}")
    os.close(theirs)
    with os.fdopen(ours):
        assert read_bytes(Path(f"/dev/fd/{ours}"), TaskError) == b"{}"


@pytest.mark.parametrize("text", ["root:x:0:0\n", "def f(:\n", "x\0y", "(" * 5000])
def test_tests_that_are_no_python_are_named_before_an_answer_is_made(tmp_path, text):
    (path := tmp_path / "tests.py").write_text(text)
    with pytest.raises(TaskError, match=r"tests.py.*: not valid Python \(.*\), so no answer can pass"):
        read_tests(path, "prompt")
