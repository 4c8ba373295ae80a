"""Answers in the shapes that models write, each with the name of its shape. All of them hold a right program."""

STUB = '''from typing import List


def scale(x, by):
    return x * by


def total(nums: List[int], by: int = 1) -> int:
    """Return the sum of the numbers, each times by.

    >>> total([1, 2], 2)
    6
    """
'''
TESTS = "def check(candidate):\n    assert candidate([1, 2], 2) == 6\n    assert candidate([]) == 0\n"
GOOD = "def total(nums, by=1):\n    return sum(x * by for x in nums)\n"
BODY = "    return sum(x * by for x in nums)\n"
WRONG = "def total(nums, by=1):\n    return sum(nums)\n"


def fenced(code, label="python", fence="```"):
    return f"{fence}{label}\n{code.rstrip()}\n{fence}\n"


def indented(text, by):
    return "".join(by + line if line.strip() else line for line in text.splitlines(keepends=True))


PROSE = "To solve this, we go over the numbers. It's simple: multiply, then add.\n\n"
AFTER = "\nThis runs in O(n) time. Let me know if you'd like a version that doesn't use `sum`!\n"
THINK = "<think>\nThe user wants total. Maybe:\n```python\ndef total(nums, by=1):\n    return None\n```\nHmm, no.\n</think>\n\n"

ANSWERS = {
    "code alone": GOOD,
    "a fence": fenced(GOOD),
    "prose around a fence": f"Sure! Here's the function:\n\n{fenced(GOOD)}{AFTER}",
    "a fence without a label": fenced(GOOD, ""),
    "label Python": fenced(GOOD, "Python"),
    "label py": fenced(GOOD, "py"),
    "label python3 and attributes": fenced(GOOD, 'python3 title="total.py" linenums="1"'),
    "label in braces": fenced(GOOD, "{.python .numberLines}"),
    "label with a space before it": fenced(GOOD, " python"),
    "another language's label": fenced(GOOD, "text"),
    "tildes": fenced(GOOD, "python", "~~~"),
    "four backticks": f"````markdown\n{fenced(GOOD)}````\n",
    "no closing fence": f"```python\n{GOOD}",
    "cut off behind the function": f"```python\n{GOOD}\n\n# Test cases\nprint(total([1,",
    "cut off in a second function": f"```python\n{GOOD}\n\ndef test_total():\n    assert total([1, 2], 2) == 6\n    assert (",
    "closing fence behind the code": f"```python\n{GOOD.rstrip()}```",
    "closing fence with a remark": f"```python\n{GOOD}``` This is it.\n",
    "opening fence behind prose": f"Here is the code: ```python\n{GOOD}```\n",
    "code on the line of the fence": "```python def total(nums, by=1):\n    return sum(x * by for x in nums)\n```",
    "only a closing fence": f"{GOOD}```\nThis sums them.\n",
    "in a list": f"1. First, write it:\n\n{indented(fenced(GOOD), '   ')}\n2. Then use it.\n",
    "in a list, its fence at the mark": f"- ```python\n{indented(GOOD, '  ')}  ```\n",
    "in a quotation": "> Here:\n> ```python\n" + indented(GOOD, "> ") + "> ```\n",
    "code indented in its fence": fenced(indented(GOOD, "    ")),
    "carriage returns": fenced(GOOD).replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + GOOD,
    "prose without a fence": PROSE + GOOD + AFTER,
    "markers": f"[PYTHON]\n{GOOD}[/PYTHON]\n",
    "tags": f"<code>\n{GOOD}</code>\n",
    "a token at the end": f"{fenced(GOOD)}<|im_end|>",
    "a token behind the code": f"{GOOD.rstrip()}<|endoftext|>def nonsense(",
    "thoughts": THINK + fenced(GOOD),
    "thoughts that were opened by the prompt": THINK.removeprefix("<think>\n") + fenced(GOOD),
    "an install command first": f"{fenced('pip install numpy', 'bash')}\n{fenced(GOOD)}",
    "an example session first": fenced(">>> total([1, 2], 2)\n6") + fenced(GOOD),
    "an example use after": f"{fenced(GOOD)}\nUsage:\n\n{fenced('print(total([1, 2], 2))  # 6')}",
    "its output after": f"{fenced(GOOD)}\nOutput:\n\n{fenced('6', '')}",
    "imports in a block before": fenced("from functools import reduce")
    + fenced("def total(nums, by=1):\n    return reduce(lambda a, x: a + x * by, nums, 0)\n"),
    "a helper in a block before": fenced("import operator\n\ndef add(a, b):\n    return operator.add(a, b)\n")
    + fenced("def total(nums, by=1):\n    found = 0\n    for x in nums:\n        found = add(found, x * by)\n    return found\n"),
    "a helper in a block after": fenced("def total(nums, by=1):\n    return add_all([x * by for x in nums])\n")
    + "where\n"
    + fenced("def add_all(xs):\n    return sum(xs)\n"),
    "two versions, the last is right": f"First try:\n{fenced(WRONG)}But that ignores `by`. Fixed:\n{fenced(GOOD)}",
    "a sketch after it": fenced(GOOD) + "In short:\n" + fenced("def total(nums, by=1):\n    ...\n"),
    "a stub before it in the same block": fenced(f"def total(nums, by=1):\n    pass\n\n\n{GOOD}"),
    "a stub after it in the same block": fenced(f"{GOOD}\n\ndef total(nums, by=1):\n    pass\n"),
    "the whole task again": fenced(STUB + BODY),
    "the head without the imports": fenced("def total(nums: List[int], by: int = 1) -> int:\n" + BODY),
    "a helper of the task": fenced("def total(nums, by=1):\n    return sum(scale(x, by) for x in nums)\n"),
    "a wrong example": fenced(f"{GOOD}\nassert total([1], 5) == 6, 'wrong'\n"),
    "an example that reads input": fenced(f"{GOOD}\nn = int(input())\nprint(total([n]))\n"),
    "an example before it": fenced(f"print(total([1, 2]))\n{GOOD}"),
    "a main program": fenced(f"{GOOD}\ndef main():\n    print(total(eval(input())))\n\nmain()\n"),
    "a guarded main program": fenced(f"{GOOD}\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()\n"),
    "doctest": fenced(f"import doctest\n{GOOD}\ndoctest.testmod(raise_on_error=True)\n"),
    "unit tests": fenced(
        f"import unittest\n\n{GOOD}\n\nclass T(unittest.TestCase):\n    def test(self):\n"
        "        self.assertEqual(total([1]), 1)\n\nunittest.main()\n"
    ),
    "a package for its tests only": fenced(f"import pytest_that_is_missing\n\n{GOOD}\n"),
    "sys.exit": fenced(f"import sys\n{GOOD}\nsys.exit(0)\n"),
    "an annotation import": fenced(f"from __future__ import annotations\n{GOOD.replace('nums,', 'nums: list[int] | None,')}"),
    "a table that a loop fills": fenced(
        "squares = {}\nfor i in range(9):\n    squares[i] = i\n\n"
        "def total(nums, by=1):\n    return sum(squares[x] * by for x in nums)\n"
    ),
    "a table that calls fill": fenced(
        "known = []\nknown.append(0)\n\ndef total(nums, by=1):\n    return sum((x * by for x in nums), known[0])\n"
    ),
    "a recursion limit": fenced(
        "import sys\nsys.setrecursionlimit(5000)\n\ndef total(nums, by=1):\n    assert sys.getrecursionlimit() == 5000\n" + BODY
    ),
    "an import under try": fenced(
        "try:\n    import missing_one as m\nexcept ImportError:\n    m = None\n\n" + GOOD.replace("(x", "(m or x")
    ),
    "a class of its own": fenced(
        "from dataclasses import dataclass\n\n@dataclass\nclass Item:\n    x: int\n\n"
        "def total(nums, by=1):\n    return sum(Item(x).x * by for x in nums)\n"
    ),
    "a decorator": fenced("import functools\n\n@functools.wraps(sum)\n" + GOOD),
    "a variable": fenced("total = lambda nums, by=1: sum(x * by for x in nums)"),
    "an async helper": fenced(f"import asyncio\n\nasync def go():\n    return 1\n\n{GOOD}\nasyncio.run(go())\n"),
    "statements on one line": fenced("import math; import os\n" + GOOD.replace("sum(", "math.fsum(")),
    "backticks in its docstring": fenced(
        'def total(nums, by=1):\n    """Sum.\n\n    ```python\n    total([1])\n    ```\n    """\n' + BODY
    ),
    "an apostrophe in prose, then code": "It's done; here's what you've asked for\n\n" + GOOD + "\nThat's it, don't you think?\n",
    "a heading and a rule": f"### Solution\n---\n{fenced(GOOD)}### Explanation\n- `nums`: the numbers\n",
    "prose between import and function": "import math\n\nNow the function itself:\n\n" + GOOD.replace("sum(", "math.fsum("),
    "a continuation": BODY,
    "a continuation behind a blank line": "\n" + BODY,
    "a continuation with an example after it": BODY + "\n\nprint(total([1]))\n",
    "a continuation with another task after it": BODY + '\n\ndef other(x):\n    """Something else',
    "a continuation that uses a helper after it": ""
    "    return sum(times(x, by) for x in nums)\n\n\ndef times(x, by):\n    return x * by\n",
    "a continuation with a comment after it": BODY + "\n# The end.\nassert False\n",
    "a continuation and a fence": BODY + "```\n\nThis sums them.\n",
    "a continuation in a fence": fenced(BODY),
    "a continuation in a fence without its indentation": fenced("found = 0\nfor x in nums:\n    found += x * by\nreturn found"),
    "a continuation whose first line lost its indentation": ""
    "found = 0\n    for x in nums:\n        found += x * by\n    return found\n",
    "a continuation in a prose": "The body is:\n\n" + fenced(BODY) + AFTER,
    "a continuation, then the function again": BODY + "\n\n" + WRONG,
}
