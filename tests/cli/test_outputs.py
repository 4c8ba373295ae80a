"""No output replaces a file that is not of its own kind; one of its own kind it does."""

import json
import os

import pytest

from ..bench.reports import made_report
from ..conftest import DATA
from ..evaluation.programs import FUNCTIONS
from .command import assert_one_line, diffucode

TINY = ("-m", DATA / "dream-b", "--max-tokens", "4")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "run.jsonl"
    assert diffucode("generate", *TINY, "--trace", path, "hi").returncode == 0
    return path


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(made_report()))
    return path


def commands(trace, report, folder):
    """Each output option: its command, the file that it names and the files that it writes."""
    prompt, page = (*TINY, "hi"), folder / "x.html"
    return [
        (("generate", *prompt, "--trace"), folder / "t.jsonl", None),
        (("infill", DATA / "dream-b" / "config.json", *TINY, "--at", "1", "--trace"), folder / "t.jsonl", None),
        (("eval", FUNCTIONS, *TINY, "--allow-code-execution", "--out"), folder / "r.jsonl", None),
        (("trace", "plot", trace, "--out"), page, None),
        (("trace", "plot", trace, "--out"), folder / "x", [page]),
        (("trace", "animate", trace, "--out"), folder / "x.svg", None),
        (("compare", DATA / "dream-a", "pocket", "--picture"), page, None),
        (("bench", "run", "-m", "pocket", "--out"), folder / "b.json", None),
        (("bench", "compare", report, "--pictures"), page, None),
        (("train", "-m", "pocket", "--data", trace, "--out"), folder, [folder / "log.jsonl"]),
    ]


@pytest.mark.parametrize("number", range(10))
def test_a_file_of_another_kind_is_not_replaced(trace, report, tmp_path, number):
    folder = tmp_path / "mine"
    folder.mkdir()
    args, named, files = commands(trace, report, folder)[number]
    if args[0] == "train":
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
        args = tuple(rows if arg == trace else arg for arg in args)
    for file in files or [named]:
        file.write_text("mine\n")
    assert_one_line(diffucode(*args, named), str(files[0].name if files else named))
    for file in files or [named]:
        assert file.read_text() == "mine\n"
    assert len([one for one in folder.iterdir() if one.name != ".lock"]) == len(files or [named])


@pytest.mark.parametrize("number", [0, 1, 2, 3, 6])
def test_a_pipe_is_not_waited_for(trace, report, tmp_path, number):
    args, named, _ = commands(trace, report, tmp_path)[number]
    os.mkfifo(named)
    done = diffucode(*args, named)
    assert done.returncode in (1, 2)
    assert str(named) in done.stderr


def test_a_page_replaces_a_page(trace, report, tmp_path):
    for args, flag in ((("trace", "plot", trace), "--out"), (("bench", "compare", report), "--pictures")):
        for _ in range(2):
            assert diffucode(*args, flag, tmp_path / "x.html").returncode == 0
