"""The names that other programs may import, and the two ways to start the command."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_diffucoder

SOURCE = Path(mlx_diffucoder.__file__)


@pytest.mark.parametrize("name", mlx_diffucoder.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name):
    value = getattr(mlx_diffucoder, name)
    assert value.__name__ == name
    assert inspect.getdoc(value), name
    if inspect.isclass(value):
        for member, function in vars(value).items():
            if not member.startswith("_") and (inspect.isfunction(function) or isinstance(function, property | classmethod)):
                assert inspect.getdoc(getattr(value, member) if isinstance(function, classmethod) else function), member


def test_the_public_names_are_listed_once_in_order_and_known_to_type_checkers():
    assert list(mlx_diffucoder.__all__) == sorted(set(mlx_diffucoder.__all__))
    assert set(mlx_diffucoder._MODULES) == set(mlx_diffucoder.__all__)
    assert dir(mlx_diffucoder) == sorted([*mlx_diffucoder.__all__, "__version__"])
    checked = {
        (node.module, alias.name)
        for branch in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(branch, ast.If)
        for node in ast.walk(branch)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.level
    }
    assert checked == {(module, name) for name, module in mlx_diffucoder._MODULES.items()}


def test_importing_the_package_imports_nothing_heavy():
    heavy = "[name for name in ('mlx', 'numpy', 'tokenizers', 'jinja2', 'typer', 'huggingface_hub') if name in sys.modules]"
    script = f"import sys, mlx_diffucoder; print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mlx_diffucoder' has no attribute 'generat'"):
        mlx_diffucoder.generat  # noqa: B018


def test_python_m_is_the_command():
    outputs = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in ([Path(sys.executable).with_name("diffucode")], [sys.executable, "-m", "mlx_diffucoder"])
    ]
    assert outputs[0] == outputs[1] == f"diffucode {mlx_diffucoder.__version__}\n"
