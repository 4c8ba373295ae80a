"""Limits on sizes: what a reader meets at once is small."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("mlx_diffucoder", "convert", "bench")
MODULE, TEST_MODULE, FUNCTION = 300, 500, 50

# The denoising loop: one function, to be read from top to bottom.
LOOP = "mlx_diffucoder/decoding/loop.py:denoise"


def python_files(*folders):
    """The Python files below folders of the checkout; `rglob` follows no symlinks, so each comes once."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def lengths():
    """The lines of every module and function that has a limit, and the limit, by name."""
    for path in python_files(*PACKAGES, "tests"):
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        in_tests = name.startswith("tests/")
        yield name, len(text.splitlines()), TEST_MODULE if in_tests else MODULE
        if not in_tests:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and f"{name}:{node.name}" != LOOP:
                    first = node.body[0].lineno if is_command(node) else node.lineno
                    yield f"{name}:{node.name}", node.end_lineno - first + 1, FUNCTION


def is_command(node):
    """Whether a function is a command: its signature is the list of its options, and only its body counts."""
    made = [one.func for one in node.decorator_list if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
    return any(ast.unparse(one) in ("app.command", "app.callback") for one in made)


def test_modules_have_at_most_300_lines_tests_500_and_functions_50():
    assert {name: lines for name, lines, limit in lengths() if lines > limit} == {}
