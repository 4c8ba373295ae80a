"""The code in an answer."""

import ast
import time
from dataclasses import replace

import pytest

from mlx_diffucoder.evaluation import code_of, run_program
from mlx_diffucoder.tasks import task_of

from .answers import ANSWERS, BODY, GOOD, STUB, TESTS, fenced
from .programs import LONG, PLAIN
from .programs import STUB as CODE_STUB

TASK = task_of({"task_id": "T/0", "prompt": STUB, "entry_point": "total", "test": TESTS}, "tasks.jsonl:1")
ADD_TASK = task_of(
    {"task_id": 7, "text": "Add a pair.", "test_list": ["assert add(Pair(1, 2)) == 3", "assert add(Pair(0, 0)) == 0"]},
    "mbpp.jsonl:1",
)
ADD = "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n\n\ndef add(p):\n    return p.a + p.b\n"
HEAD = CODE_STUB.split("def f")[0]


def same_code(one, other):
    return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))


@pytest.mark.parametrize("shape", ANSWERS)
def test_a_right_program_is_found_in_every_shape_of_an_answer(shape):
    code = code_of(ANSWERS[shape], TASK)
    outcome = run_program(code, TASK.tests, LONG)
    assert outcome.passed, f"{outcome}\n{code}"


@pytest.mark.parametrize("shape", ["a fence", "prose without a fence", "an example use after", "a wrong example", "in a list"])
def test_without_code_to_complete_a_program_stands_for_itself(shape):
    assert run_program(code_of(ANSWERS[shape], replace(TASK, stub=None)), TASK.tests, LONG).passed


@pytest.mark.parametrize(
    "answer",
    [
        ADD,
        f"Here:\n{fenced(ADD)}Try it:\n{fenced('print(add(Pair(1, 2)))')}",
        f"[BEGIN]\n{ADD}[DONE]\n",
        fenced(ADD.split("\n\n\n")[0]) + fenced(ADD.split("\n\n\n")[1]),
        fenced(f"{ADD}\np = Pair(*map(int, input().split()))\nprint(add(p))\n"),
    ],
    ids=["alone", "with an example", "markers", "two blocks", "reads input"],
)
def test_where_only_the_tests_name_the_functions_they_are_the_entry_points(answer):
    assert run_program(code_of(answer, ADD_TASK), ADD_TASK.tests, LONG).passed


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```python\n\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```bash\npip install x\n```\n```python\nx = 3\n```", "x = 3\n"),
        ("```python\nx = 4\n```\n```python\nx = 5\n```", "x = 4\n"),
        ("~~~python\nx = '```'\n~~~", "x = '```'\n"),
        ("", ""),
        (" \n\n", ""),
        ("I cannot write this.", "I cannot write this."),
    ],
)
def test_without_the_entry_point_it_is_the_first_block_with_code_or_else_the_answer(answer, code):
    assert code_of(answer, PLAIN) == code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("    return sum(xs)\n", CODE_STUB + "    return sum(xs)\n"),
        ("    return sum(xs)\n\nprint(f([1]))\n", CODE_STUB + "    return sum(xs)\n"),
        ("    return sum(xs)\n\ndef g():\n    pass\n", CODE_STUB + "    return sum(xs)\n"),
        ("def f(xs):\n    return sum(xs)\n", HEAD + "def f(xs):\n    return sum(xs)\n"),
        ("```python\nf = sum\n```", HEAD + "f = sum\n"),
        ("```python\nasync def f(xs): ...\n```", HEAD + "async def f(xs): ...\n"),
    ],
)
def test_a_completion_is_put_after_the_code_it_completes(answer, code):
    assert same_code(code_of(answer, replace(PLAIN, stub=CODE_STUB)), code)


def test_code_with_a_syntax_error_stays_one():
    for answer in (fenced("def total(nums, by=1):\n    return sum(x * for x in nums)\n"), "    return sum(x * for x in nums)\n"):
        assert run_program(code_of(answer, TASK), TASK.tests, LONG).kind in ("error", "wrong")


def test_a_program_that_reads_names_by_text_is_kept_whole():
    answer = fenced(
        'def helper(x):\n    return x\n\ndef total(nums, by=1):\n    return sum(globals()["helper"](x) * by for x in nums)\n'
    )
    assert run_program(code_of(answer, TASK), TASK.tests, LONG).passed


def test_a_function_named_as_the_tests_own_is_still_the_one_tested():
    row = {"task_id": "T/1", "prompt": "def check(x):\n", "entry_point": "check"}
    task = task_of(row | {"test": "def check(candidate):\n    assert candidate(2) is True\n"}, "tasks.jsonl:1")
    assert run_program(code_of("    return x > 0\n", task), task.tests, LONG).passed
    assert run_program(code_of("    return x > 5\n", task), task.tests, LONG).kind == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "```\n" * 2000,
        "(" * 5000,
        '"""\n' * 1501,
        "- x\n" * 3000,
        "def f(:\n" * 2000,
        "```python\nx\n" * 800,
        "a\0b",
        "-" * 100_000,
    ],
    ids=["fences", "parentheses", "quotes", "list", "heads", "blocks", "null", "minus"],
)
def test_an_endless_or_broken_text_takes_no_time(text):
    start = time.monotonic()
    code_of(text + BODY + GOOD, TASK)
    assert time.monotonic() - start < 10
