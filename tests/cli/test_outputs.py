"""No output replaces a file that is not of its own kind; one of its own kind it does."""

import json
import os

import pytest

from mlx_diffucoder.plotting import check_plot, plotter, save_plot

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
    prompt = (*TINY, "hi")
    plots = [folder / f"{name}{kind}" for name in ("forwards", "speed", "step") for kind in (".png", ".svg")]
    return [
        (("generate", *prompt, "--trace"), folder / "t.jsonl", None),
        (("infill", DATA / "dream-b" / "config.json", *TINY, "--at", "1", "--trace"), folder / "t.jsonl", None),
        (("eval", FUNCTIONS, *TINY, "--allow-code-execution", "--out"), folder / "r.jsonl", None),
        (("trace", "plot", trace, "--out"), folder / "x.html", None),
        (("trace", "animate", trace, "--out"), folder / "x.svg", None),
        (("compare", DATA / "dream-a", "pocket", "--picture"), folder / "x.pdf", None),
        (("bench", "run", "-m", "pocket", "--out"), folder / "b.json", None),
        (("bench", "compare", report, "--pictures"), folder, plots[:1]),
        (("bench", "compare", report, "--pictures"), folder, plots[-1:]),
        (("train", "-m", "pocket", "--data", trace, "--out"), folder, [folder / "log.jsonl"]),
    ]


@pytest.mark.parametrize("number", range(10))
def test_a_file_of_another_kind_is_not_replaced(trace, report, tmp_path, number):
    folder = tmp_path / "mine"
    folder.mkdir()
    if number in (7, 8):
        pytest.importorskip("matplotlib")
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


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5])
def test_a_pipe_is_not_waited_for(trace, report, tmp_path, number):
    if number == 5:
        pytest.importorskip("matplotlib")
    args, named, _ = commands(trace, report, tmp_path)[number]
    os.mkfifo(named)
    done = diffucode(*args, named)
    assert done.returncode in (1, 2)
    assert str(named) in done.stderr


def test_a_page_replaces_a_page(trace, tmp_path):
    for _ in range(2):
        assert diffucode("trace", "plot", trace, "--out", tmp_path / "x.html").returncode == 0


def test_pictures_of_results_replace_their_own(report, tmp_path):
    pytest.importorskip("matplotlib")
    for _ in range(2):
        assert diffucode("bench", "compare", report, "--pictures", tmp_path / "p").returncode == 0


def test_a_pdf_is_known_by_its_end(tmp_path):
    pytest.importorskip("matplotlib")
    pyplot = plotter()
    figure, axes = pyplot.subplots()
    axes.plot(range(40000), [number % 977 for number in range(40000)])
    save_plot(figure, tmp_path / "x.pdf", flag="--picture")
    pyplot.close(figure)
    check_plot(tmp_path / "x.pdf", flag="--picture")
