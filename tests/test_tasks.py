"""Task files: HumanEval, MBPP, EvalPlus and this project's own."""

import json

import pytest

from mlx_diffucoder.errors import TaskError
from mlx_diffucoder.evaluation.execute import run_program
from mlx_diffucoder.tasks import INSTRUCTION, read_rows, read_tasks

from .evaluation.programs import HUMAN_EVAL, LONG, STUB


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


MBPP = {
    "task_id": 601,
    "text": "Write a function to add a pair.",
    "code": "def add(p):\n    return p.a + p.b",
    "test_list": ["assert add(Pair(1, 2)) == 3"],
    "test_setup_code": "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 2,
    "prompt": "Write a function for the square root.",
    "code": "import math\ndef root(x):\n    return math.sqrt(x)",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(4), 2)", "assert root(9) == 3"],
}
EVAL_PLUS = {
    "task_id": "HumanEval/1",
    "prompt": 'def half(x):\n    """Half of x."""\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "base_input": [[1], [4]],
    "plus_input": [[0.5], [1e9]],
    "atol": 0,
    "contract": "",
}


def test_the_formats_are_read_and_their_own_solutions_pass(tmp_path):
    plus = {"plus_input": [[[5, 6]]], "base_input": [[[1]]]}
    rows = [HUMAN_EVAL, MBPP, SANITIZED, EVAL_PLUS, HUMAN_EVAL | plus | {"task_id": "both"}]
    tasks = read_tasks(write(tmp_path / "tasks.jsonl", *rows))
    assert [task.id for task in tasks] == ["HumanEval/0", "601", "2", "HumanEval/1", "both"]
    for task in tasks:
        assert run_program(task.solution, task.tests, LONG).kind == "passed", task.id
    assert tasks[0].stub == STUB
    assert tasks[0].prompt.startswith(INSTRUCTION)
    assert tasks[0].prompt_for(raw=True) == STUB
    assert "assert add(Pair(1, 2)) == 3" in tasks[1].prompt
    assert tasks[2].prompt_for(raw=True) == tasks[2].prompt


@pytest.mark.parametrize(
    ("solution", "kind"),
    [
        ("def half(x): return x * 0.5 + 1e-9", "passed"),
        ("def half(x): return x * 0.5 + 1e-3", "wrong"),
        ("def half(x): return x // 2", "wrong"),
        ("def half(x): return str(x / 2)", "wrong"),
        ("def half(x): return [x / 2]", "wrong"),
        ("def half(x): return None", "wrong"),
        ("def other(x): return x / 2", "error"),
    ],
)
def test_inputs_without_tests_compare_with_the_canonical_solution(tmp_path, solution, kind):
    (task,) = read_tasks(write(tmp_path / "tasks.jsonl", EVAL_PLUS))
    assert run_program(solution, task.tests, LONG).kind == kind


def test_numbers_within_lists_are_compared_with_the_rows_tolerance(tmp_path):
    row = EVAL_PLUS | {"canonical_solution": "    return [x / 2, {'a': (x,)}]\n", "atol": 0.01}
    (task,) = read_tasks(write(tmp_path / "tasks.jsonl", row))
    assert run_program("def half(x): return [x / 2 + 0.005, {'a': [x]}]", task.tests, LONG).passed
    assert not run_program("def half(x): return [x / 2 + 0.02, {'a': [x]}]", task.tests, LONG).passed
    assert not run_program("def half(x): return [x / 2]", task.tests, LONG).passed


@pytest.mark.parametrize("name", ["compare", "agree", "json", "candidate", "solution"])
def test_the_comparison_takes_no_name_from_the_answer(tmp_path, name):
    row = EVAL_PLUS | {"entry_point": name, "prompt": f"def {name}(x):\n"}
    (task,) = read_tasks(write(tmp_path / "tasks.jsonl", row))
    assert run_program(task.solution, task.tests, LONG).passed


def test_a_polynomials_root_is_checked_by_its_equation(tmp_path):
    row = EVAL_PLUS | {
        "entry_point": "find_zero",
        "prompt": "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\ndef find_zero(xs):\n",
        "canonical_solution": "    return 1.0\n",
        "base_input": [[[-1, 0, 1]]],
        "plus_input": [],
        "atol": 1e-4,
    }
    (task,) = read_tasks(write(tmp_path / "tasks.jsonl", row))
    assert run_program("def find_zero(xs): return -1.0", task.tests, LONG).passed
    assert run_program("def find_zero(xs): return 0.5", task.tests, LONG).kind == "wrong"


INFILLING = {
    "task_id": "SingleLineInfilling/HumanEval/0/L1",
    "entry_point": "total",
    "prompt": "def total(nums):\n    result = 0\n",
    "suffix": "        result += x\n    return result\n",
    "canonical_solution": "    for x in nums:\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
}


@pytest.mark.parametrize("key", ["suffix", "canonical_solution"])
@pytest.mark.parametrize("value", [5, ["x"], False])
def test_a_row_whose_suffix_or_hole_is_no_text_is_refused(tmp_path, key, value):
    """It was read as a task without a suffix: half of a function."""
    with pytest.raises(TaskError, match=rf"jsonl:1: {key} is a JSON {type(value).__name__}, not text"):
        read_tasks(write(tmp_path / "t.jsonl", INFILLING | {key: value}))


def test_a_row_with_a_suffix_is_a_hole_for_those_who_fill_it(tmp_path):
    last = INFILLING | {
        "task_id": "last",
        "suffix": "",
        "canonical_solution": "    for x in nums:\n        result += x\n    return result",
    }
    file = write(tmp_path / "tasks.jsonl", INFILLING, last)
    for task in read_tasks(file):
        assert run_program(task.solution, task.tests, LONG).passed
        assert (task.prompt, task.suffix) == (INFILLING["prompt"], INFILLING["suffix"] if task.id != "last" else "")
    with pytest.raises(TaskError, match=r"jsonl:1: has a suffix.*only diffucode eval"):
        read_tasks(file, infilling=False)
    with pytest.raises(TaskError, match=r"jsonl:2: .*in every row or in none"):
        read_tasks(write(file, INFILLING, HUMAN_EVAL | {"suffix": None}))


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"task_id": 1,', "not valid JSON"),
        (b"[1]", "list, not an object"),
        (b"caf\xe9", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{}", "not a task of a known format"),
        (json.dumps(without(HUMAN_EVAL, "prompt")).encode(), "prompt is missing"),
        (json.dumps(without(HUMAN_EVAL, "task_id")).encode(), "task_id is missing"),
        (json.dumps(HUMAN_EVAL | {"task_id": True}).encode(), "task_id is True"),
        (json.dumps(HUMAN_EVAL | {"test": 3}).encode(), "test is a JSON int"),
        (json.dumps(HUMAN_EVAL | {"entry_point": "os.system"}).encode(), "entry_point 'os.system'"),
        (json.dumps(MBPP | {"test_list": "assert x"}).encode(), "test_list is not a list"),
        (json.dumps(MBPP | {"test_list": []}).encode(), "test_list is empty"),
        (json.dumps(without(INFILLING, "prompt")).encode(), "prompt is missing"),
        (json.dumps(without(INFILLING, "test")).encode(), "not a task of a known format"),
        (json.dumps(EVAL_PLUS | {"base_input": [1]}).encode(), "base_input and plus_input"),
        (json.dumps(EVAL_PLUS | {"atol": "x"}).encode(), "atol"),
        (json.dumps(EVAL_PLUS | {"task_id": "Mbpp/2"}).encode(), "MBPP+"),
        (json.dumps(SANITIZED).encode(), "already used in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line, message):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(json.dumps(SANITIZED).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(TaskError) as caught:
        read_tasks(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_row_or_an_array_that_takes_too_much_memory_as_objects_is_refused(tmp_path, monkeypatch):
    (path := tmp_path / "rows").write_text('{"a": [' + "[]," * 30 + "[]]}\n")
    monkeypatch.setattr("mlx_diffucoder.tasks.LARGEST_ROW", 100)
    with pytest.raises(TaskError, match=r"rows:1: has 0.00 MB, and a row may have at most"):
        list(read_rows(path))
    path.write_text("[" + "{}, " * 30 + "{}]")
    assert len(list(read_rows(path))) == 31
    monkeypatch.setattr("mlx_diffucoder.tasks.LARGEST_ARRAY", 100)
    with pytest.raises(TaskError, match=r"a JSON array may have at most .*; save it as JSON lines, one row a line"):
        list(read_rows(path))


def test_a_file_without_tasks_is_refused(tmp_path):
    with pytest.raises(TaskError, match="cannot be read"):
        read_tasks(tmp_path / "nowhere.jsonl")
    with pytest.raises(TaskError, match="no task"):
        read_tasks(write(tmp_path / "empty.jsonl"))
