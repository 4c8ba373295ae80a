"""The evaluation instrument: scores, extraction, task files, programs under limits, the loop, the results file."""

import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.errors import ConfigError, TaskError
from mlx_diffucoder.evaluation import Limits, Result, Summary, code_of, confidence_interval, evaluate, pass_at_k
from mlx_diffucoder.evaluation import run as loop
from mlx_diffucoder.evaluation.execute import run_program
from mlx_diffucoder.evaluation.results_file import ResultsFile, identity
from mlx_diffucoder.evaluation.run import seed_of
from mlx_diffucoder.generation import Answer
from mlx_diffucoder.tasks import INSTRUCTION, Task, read_tasks

FUNCTIONS = Path(__file__).parents[2] / "bench" / "tasks" / "functions.jsonl"
SHORT = Limits(timeout=0.7, memory=256)
LONG = Limits(timeout=20, memory=512)


# Scores


@pytest.mark.parametrize(
    ("samples", "passed", "k", "expected"),
    [(1, 0, 1, 0), (1, 1, 1, 1), (5, 2, 1, 2 / 5), (5, 2, 2, 1 - 3 / 10), (4, 1, 3, 1 - 1 / 4), (3, 0, 3, 0), (3, 1, 3, 1)],
)
def test_pass_at_k_as_computed_by_hand(samples, passed, k, expected):
    assert pass_at_k(samples, passed, k) == pytest.approx(expected)


def test_pass_at_k_is_the_share_of_subsets_with_one_that_passed():
    for passed in range(201):
        expected = 1 - math.comb(200 - passed, 100) / math.comb(200, 100)
        assert pass_at_k(200, passed, 100) == pytest.approx(expected)


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be_estimated(samples, passed, k):
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(samples, passed, k)


def test_the_interval_is_that_of_a_binomial_and_always_the_same():
    scores = [1.0] * 80 + [0.0] * 20
    low, high = confidence_interval(scores)
    assert (low, high) == confidence_interval(scores)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert low == pytest.approx(0.8 - half, abs=0.02)
    assert high == pytest.approx(0.8 + half, abs=0.02)
    assert confidence_interval([1.0] * 5) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no scores"):
        confidence_interval([])


def result(task="a", sample=0, kind="passed", **numbers):
    values = {"nfe": 2, "positions": 60, "useful_tokens": 6, "unresolved_masks": 1, "seconds": 0.5, "peak_memory_bytes": 7}
    return Result(task_id=task, sample=sample, kind=kind, detail="", answer="x", **(values | numbers))


def test_a_summary_holds_means_over_tasks_and_ratios_of_sums():
    results = [
        result("a", 0),
        result("a", 1, "wrong", nfe=4, positions=100, useful_tokens=0),
        result("b", 0, "timeout", seconds=1.0, peak_memory_bytes=9),
        result("b", 1, "timeout"),
    ]
    report = Summary.of(results, [2]).to_dict()
    assert report["pass@1"] == 0.25
    assert report["pass@2"] == 0.5
    assert (report["tasks"], report["answers"], report["passed"]) == (2, 4, 1)
    assert report["nfe"] == 10 / 4
    assert report["tokens_per_forward"] == 18 / 10
    assert report["positions_per_useful_token"] == 280 / 18
    assert report["useful_tokens_per_second"] == 18 / 2.5
    assert (report["unresolved_masks"], report["peak_memory_bytes"]) == (4, 9)
    assert {kind: count for kind, count in report["failures"].items() if count} == {"wrong": 1, "timeout": 2}


def test_a_summary_of_part_of_a_run_leaves_out_tasks_with_too_few_answers():
    summary = Summary.of([result("a", 0), result("a", 1), result("b", 0, "wrong")], [2])
    assert summary.pass_at == {1: 0.5, 2: 1.0}
    assert Summary.of([], [2]).to_dict()["pass@1"] is None
    json.dumps(Summary.of([]).to_dict(), allow_nan=False)


# The code in an answer

STUB = 'from typing import List\n\ndef helper(x):\n    return x\n\ndef f(xs: List[int]) -> int:\n    """Sum."""\n'
PLAIN = Task(id="p", where="t:1", prompt="Write f.", tests="assert f([1, 2]) == 3", entry_point="f")
CODE = replace(PLAIN, stub=STUB)
HEAD = STUB.split("def f")[0]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f(xs):\n    return 1\n", "def f(xs):\n    return 1\n"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py title='a'\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```python\n\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```bash\npip install x\n```\n```python\nx = 3\n```", "x = 3\n"),
        ("```python\nx = 4\n```\n```python\nx = 5\n```", "x = 4\n"),
        ("~~~python\nx = '```'\n~~~", "x = '```'\n"),
        ("", ""),
        (" \n\n", ""),
    ],
)
def test_the_code_is_the_first_fenced_block_with_code_or_else_the_body(answer, code):
    assert code_of(answer, PLAIN) == code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("    return sum(xs)\n", STUB + "    return sum(xs)\n\n"),
        ("    return sum(xs)\n\nprint(f([1]))\n", STUB + "    return sum(xs)\n\n"),
        ("    return sum(xs)\n\ndef g():\n    pass\n", STUB + "    return sum(xs)\n\n"),
        ("```python\n    return sum(xs)\n```", STUB + "    return sum(xs)\n\n"),
        ("def f(xs):\n    return sum(xs)\n", HEAD + "def f(xs):\n    return sum(xs)\n"),
        ("```python\nf = sum\n```", HEAD + "f = sum\n"),
        ("```python\nasync def f(xs): ...\n```", HEAD + "async def f(xs): ...\n"),
    ],
)
def test_a_completion_is_put_behind_the_code_it_completes(answer, code):
    assert code_of(answer, CODE) == code


# Task files


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": STUB,
    "entry_point": "f",
    "canonical_solution": "    return sum(xs)\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
}
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


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"task_id": 1,', "not valid JSON"),
        (b"[1]", "list, not an object"),
        (b"caf\xe9", "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b"{}", "not a task of a known format"),
        (json.dumps(without(HUMAN_EVAL, "prompt")).encode(), "prompt is missing"),
        (json.dumps(without(HUMAN_EVAL, "task_id")).encode(), "task_id is missing"),
        (json.dumps(HUMAN_EVAL | {"task_id": True}).encode(), "task_id is True"),
        (json.dumps(HUMAN_EVAL | {"test": 3}).encode(), "test is a JSON int"),
        (json.dumps(HUMAN_EVAL | {"entry_point": "os.system"}).encode(), "entry_point 'os.system'"),
        (json.dumps(MBPP | {"test_list": "assert x"}).encode(), "test_list is not a list"),
        (json.dumps(MBPP | {"test_list": []}).encode(), "test_list is empty"),
        (json.dumps(EVAL_PLUS | {"base_input": [1]}).encode(), "base_input and plus_input"),
        (json.dumps(EVAL_PLUS | {"atol": "x"}).encode(), "atol"),
        (json.dumps(EVAL_PLUS | {"task_id": "Mbpp/2"}).encode(), "MBPP+"),
        (json.dumps(SANITIZED).encode(), "already that of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line, said):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(json.dumps(SANITIZED).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(TaskError) as caught:
        read_tasks(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_file_without_tasks_is_refused(tmp_path):
    with pytest.raises(TaskError, match="cannot be read"):
        read_tasks(tmp_path / "nowhere.jsonl")
    with pytest.raises(TaskError, match="no task"):
        read_tasks(write(tmp_path / "empty.jsonl"))


# Programs under limits

RIGHT = "def f(x):\n    return x\n"
TESTS = "def check(candidate):\n    assert candidate(1) == 1\n\ncheck(f)\n"
PROGRAMS = {
    "right": (RIGHT, "passed"),
    "wrong": ("def f(x): return 2", "wrong"),
    "syntax": ("def f(", "error"),
    "its own assertion": ("assert False\n" + RIGHT, "error"),
    "loops": ("def f(x):\n    while True: pass", "timeout"),
    "loops and catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "timeout",
    ),
    "sleeps deaf to signals": (
        "import signal, time\nfor s in (2, 15, 24): signal.signal(s, signal.SIG_IGN)\ntime.sleep(99)",
        "timeout",
    ),
    "raises what cannot be printed": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        "timeout",
    ),
    "forks": ("import os\nwhile True: os.fork()", "error"),
    "starts a program": ("import subprocess\nsubprocess.run(['sleep', '99'])", "error"),
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "error"),
    "prints without end": ("while True: print('x' * 1000)", "output"),
    "complains without end": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
    "writes a large file": ("with open('x', 'wb') as file: file.write(b'x' * 10**8)", "output"),
    "eats memory": ("x = []\nwhile True: x.append(bytearray(10**7))", "memory"),
    "wants all memory at once": ("bytearray(10**13)", "memory"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "error"),
    "os._exit(0)": ("import os\nos._exit(0)", "exit"),
    "os._exit(0) in the function": ("import os\ndef f(x): os._exit(0)", "exit"),
    "SystemExit in the function": ("def f(x): raise SystemExit(0)", "error"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "error"),
    "closes every descriptor": ("import os\nos.closerange(0, 1000)\n" + RIGHT, "exit"),
    "forges a verdict": (
        "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'[\"passed\", 0]\\n')\n    except OSError: pass\n" + RIGHT,
        "exit",
    ),
    "recurses": ("def f(x): return f(x)", "error"),
    "recurses without limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x) + 1",
        "memory timeout error",
    ),
    "lowers the recursion limit": ("import sys\nsys.setrecursionlimit(60)\n" + RIGHT, "passed"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "error"),
    "reads stdin": ("input()", "error"),
    "null byte": ("a\0b", "error"),
    "leaves a deep tree": ("import os\nfor i in range(2000):\n    os.mkdir('d'); os.chdir('d')\n" + RIGHT, "passed"),
    "leaves work for later": ("import atexit, time\natexit.register(time.sleep, 99)\n" + RIGHT, "passed"),
    "has a main": ("if __name__ == '__main__':\n    input()\n" + RIGHT, "passed"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n" + RIGHT, "passed"),
}


needs_a_memory_limit = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no limit on memory")


@pytest.fixture
def no_leftovers(tmp_path, monkeypatch):
    """The temporary folder of this test alone, which must be empty after it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_a_memory_limit) if "memory" in PROGRAMS[name][1] else name for name in PROGRAMS]
)
def test_a_program_is_stopped_and_its_failure_has_the_right_name(name, no_leftovers):
    code, kinds = PROGRAMS[name]
    start = time.monotonic()
    # Only what is meant to run out of time is given little of it: the machine may be busy.
    limits = replace(SHORT, timeout=SHORT.timeout if "timeout" in kinds else 20)
    outcome = run_program(code, TESTS, limits)
    assert outcome.kind in kinds.split(), outcome
    assert time.monotonic() - start < limits.timeout + 5
    if outcome.kind != "passed":
        assert outcome.detail


def working_in(folder):
    """Processes whose working directory is or was in a folder; Linux lists them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [process.name] if (process / "cwd").readlink().is_relative_to(folder) else []
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="no /proc")
def test_children_that_python_does_not_know_of_die_with_their_group(no_leftovers):
    # Where the user is not root, RLIMIT_NPROC already lets none of them come to life.
    code = "import ctypes\nc = ctypes.CDLL(None)\nfor i in range(5): c.fork()\nwhile True: pass"
    assert run_program(code, TESTS, SHORT).kind == "timeout"
    deadline = time.monotonic() + 5
    while working_in(no_leftovers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert working_in(no_leftovers) == []


def test_a_forked_child_cannot_pass_in_its_parents_place():
    code = "import ctypes, os\nif ctypes.CDLL(None).fork() != 0: os._exit(0)\n" + RIGHT
    assert run_program(code, TESTS, LONG).kind in ("exit", "timeout")


def test_nothing_of_the_users_environment_or_folder_is_given(monkeypatch):
    monkeypatch.setenv("A_SECRET", "1")
    code = "import os, sys\nassert 'A_SECRET' not in os.environ\nassert os.listdir() == []\nassert sys.argv == ['answer.py']\n"
    code += "assert os.getcwd() == os.environ['HOME']\nassert sys.path and '' not in sys.path\n" + RIGHT
    outcome = run_program(code, TESTS, LONG)
    assert outcome.passed, outcome


def test_numpy_fits_into_the_default_memory():
    assert run_program("import numpy\n" + RIGHT, TESTS, Limits(timeout=20)).passed


def test_a_failed_test_is_quoted():
    assert run_program("def f(x): return 2", TESTS, LONG).detail == "AssertionError: assert candidate(1) == 1"


@pytest.mark.parametrize(("field", "value"), [("timeout", 0), ("timeout", math.nan), ("memory", 0), ("output", 0)])
def test_a_limit_that_cannot_work_is_named(field, value):
    with pytest.raises(ConfigError, match=field) as caught:
        Limits(**{field: value})
    assert caught.value.field == field


def solve(tasks):
    return {task.id: run_program(task.solution, task.tests, LONG).kind for task in tasks}


def test_canonical_solutions_pass():
    tasks = read_tasks(FUNCTIONS)
    assert len(tasks) == 200
    assert set(solve(tasks[::10]).values()) == {"passed"}


@pytest.mark.slow
def test_every_canonical_solution_passes():
    assert set(solve(read_tasks(FUNCTIONS)).values()) == {"passed"}


# The loop


def numbers(results):
    """What two runs must share: all but times and memory."""
    return [replace(result, seconds=0.0, peak_memory_bytes=0) for result in results]


def test_pocket_passes_a_task(pocket):
    model, tokenizer = pocket
    (answer,) = evaluate(model, tokenizer, read_tasks(FUNCTIONS)[:1], GenerationConfig.preset("balanced", max_tokens=64))
    assert answer.passed, answer
    assert answer.useful_tokens > 10
    assert answer.seconds > 0


def test_an_evaluation_goes_on_after_hostile_answers(dream_b, monkeypatch):
    model, tokenizer = dream_b
    answers = iter([RIGHT, "while True: pass", "import os\nos._exit(0)", "", "raise MemoryError", "def f(x): return 0", RIGHT])

    class Scripted(Answer):
        @classmethod
        def of(cls, tokenizer, step, start, config):
            return cls(text=next(answers), useful_tokens=2)

    monkeypatch.setattr(loop, "Answer", Scripted)
    tasks = [replace(PLAIN, id=str(i), tests=TESTS) for i in range(7)]
    results = list(evaluate(model, tokenizer, tasks, GenerationConfig(max_tokens=2), limits=SHORT))
    assert [one.kind for one in results] == ["passed", "timeout", "exit", "no_code", "memory", "wrong", "passed"]
    assert [one.task_id for one in results] == [task.id for task in tasks]
    assert max(one.seconds for one in results) < SHORT.timeout


def test_a_run_that_goes_on_gives_what_an_uninterrupted_one_gives(dream_b):
    model, tokenizer = dream_b
    tasks = read_tasks(FUNCTIONS)[:3]
    config = GenerationConfig(max_tokens=4, temperature=1.5, seed=5)
    whole = list(evaluate(model, tokenizer, tasks, config, samples=2))
    assert len({(one.task_id, one.sample) for one in whole}) == 6
    assert len({one.answer for one in whole}) > 3
    done = {(one.task_id, one.sample) for one in whole[:3]}
    rest = list(evaluate(model, tokenizer, tasks, config, samples=2, done=done))
    assert numbers(whole[:3] + rest) == numbers(whole)


def test_every_answer_has_a_seed_of_its_own():
    seeds = {seed_of(seed, task, sample) for seed in range(5) for task in ("a", "b") for sample in range(5)}
    assert len(seeds) == 50
    assert max(seeds) < 2**64


def test_a_prompt_that_does_not_fit_is_named_before_anything_runs(dream_b):
    model, tokenizer = dream_b
    long = replace(PLAIN, id="long", where="tasks.jsonl:7", prompt="x " * 3000)
    with pytest.raises(TaskError, match=r"tasks.jsonl:7: .*tokens long"):
        evaluate(model, tokenizer, [PLAIN, long], GenerationConfig(max_tokens=4))


# The results file


@pytest.fixture
def same(dream_b):
    return identity("dream-b", dream_b[0], [PLAIN], GenerationConfig(seed=1), Limits())


def test_results_come_back_as_they_were(tmp_path, same):
    path = tmp_path / "out.jsonl"
    kept = [result("é\u2028\n", 0, "wrong"), result("b", 1, seconds=1.0)]
    with ResultsFile(path, same) as file:
        for one in kept:
            file.add(one)
    with ResultsFile(path, same) as file:
        assert file.results == kept


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
        other = identity("dream-b", model, [PLAIN], GenerationConfig(seed=1), Limits())
    finally:
        model.update(tree_unflatten([(name, before[name])]))
    assert {key for key in same if same[key] != other[key]} == {"weights"}
