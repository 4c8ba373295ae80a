"""The results file."""

import json
import os
from pathlib import Path

import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.errors import TaskError
from mlx_diffucoder.evaluation import Limits
from mlx_diffucoder.evaluation.results_file import ResultsFile, check_results_file, identity, of_model

from .programs import PLAIN, result


@pytest.fixture
def same(dream_b):
    return identity(of_model("dream-b", dream_b[0], GenerationConfig(seed=1)), [PLAIN], Limits())


def test_results_come_back_as_they_were(tmp_path, same):
    path = tmp_path / "out.jsonl"
    kept = [result("é\u2028\n", 0, "wrong"), result("b", 1, seconds=1.0)]
    with ResultsFile(path, same) as file:
        for one in kept:
            file.add(one)
    with ResultsFile(path, same) as file:
        assert file.results == kept


def test_a_file_that_a_run_is_writing_is_refused_and_stays_whole(tmp_path, same):
    path = tmp_path / "out.jsonl"
    check_results_file(path)
    assert not path.exists()
    with ResultsFile(path, same) as file:
        file.add(result("a"))
        for second in (lambda: ResultsFile(path, same), lambda: check_results_file(path)):
            with pytest.raises(TaskError, match=f"^{path}: another eval is writing it"):
                second()
        file.add(result("b"))
    check_results_file(path)
    with ResultsFile(path, same) as file:
        assert file.results == [result("a"), result("b")]


def test_what_is_no_file_is_refused_before_it_is_read(tmp_path, same):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path, tmp_path / "none" / "out.jsonl", tmp_path / ("x" * 5000)):
        with pytest.raises(TaskError, match="choose another file with --out"):
            check_results_file(path)
            ResultsFile(path, same)


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_torn_last_line_is_cut_off(tmp_path, same, cut):
    path = tmp_path / "out.jsonl"
    with ResultsFile(path, same) as file:
        file.add(result("a"))
        whole = path.stat().st_size
        file.add(result("b" * 300))
    path.write_bytes(path.read_bytes()[: whole + cut])
    with ResultsFile(path, same) as file:
        assert file.results == [result("a")]
        file.add(result("c"))
    with ResultsFile(path, same) as file:
        assert file.results == [result("a"), result("c")]


def test_a_torn_first_line_starts_anew(tmp_path, same):
    path = tmp_path / "out.jsonl"
    ResultsFile(path, same).__exit__(None, None, None)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    ResultsFile(path, same).__exit__(None, None, None)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "other"}, "model 'dream-b' instead of 'other'"),
        ({"weights": "0"}, "other weights"),
        ({"tasks": "0"}, "other tasks"),
        ({"config": GenerationConfig(seed=2).to_dict()}, "config.seed 1 instead of 2"),
        ({"limits": {"timeout": 9}}, "limits.timeout"),
        ({"extraction": None}, "extraction 2 instead of None"),
    ],
)
def test_results_of_another_run_are_refused(tmp_path, same, change, said):
    path = tmp_path / "out.jsonl"
    ResultsFile(path, same).__exit__(None, None, None)
    before = path.read_bytes()
    with pytest.raises(TaskError, match=said):
        ResultsFile(path, same | change)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_not_touched(tmp_path, same):
    for text in ('{"task_id": 1}\n', "notes", "notes\n"):
        path = tmp_path / "out.jsonl"
        path.write_text(text)
        with pytest.raises(TaskError, match="not a results file"):
            ResultsFile(path, same)
        assert path.read_text() == text
    with pytest.raises(TaskError, match="Is a directory"):
        ResultsFile(tmp_path, same)
    with pytest.raises(TaskError, match="No such file"):
        ResultsFile(tmp_path / "no" / "out.jsonl", same)


@pytest.mark.parametrize("line", ["nothing", "{}", "[]", json.dumps(result().to_dict() | {"nfe": "2"})])
def test_a_broken_line_between_results_is_named(tmp_path, same, line):
    path = tmp_path / "out.jsonl"
    with ResultsFile(path, same) as file:
        file.add(result())
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TaskError, match=r"out.jsonl:3: not a result"):
        ResultsFile(path, same)


def test_other_weights_under_the_same_name_are_seen(dream_b, same):
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten

    model = dream_b[0]
    before = dict(tree_flatten(model.parameters()))
    name = next(name for name in before if name.endswith("q_proj.weight"))
    model.update(tree_unflatten([(name, before[name] + mx.array(0.25, before[name].dtype))]))
    try:
        other = identity(of_model("dream-b", model, GenerationConfig(seed=1)), [PLAIN], Limits())
    finally:
        model.update(tree_unflatten([(name, before[name])]))
    assert {key for key in same if same[key] != other[key]} == {"weights"}
