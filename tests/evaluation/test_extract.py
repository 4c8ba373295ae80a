"""The code in an answer."""

from dataclasses import replace

import pytest

from mlx_diffucoder.evaluation import code_of

from .programs import PLAIN, STUB

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
