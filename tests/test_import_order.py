"""The order of the modules: imports run downwards in this list, never up, and never in a circle."""

import ast
import re
from pathlib import Path

import pytest

import mlx_diffucoder

ORDER = [
    "errors",
    "formatting",
    "file_kinds",
    "files",
    "choices",
    "combinations",
    "config",
    "plotting",
    "statistics",
    "evalplus",
    "device",
    "arrays",
    "ranks",
    "link",
    "models",
    "tokenizer_files",
    "template_process",
    "chat_template",
    "tokenizer",
    "chat",
    "weight_files",
    "quantization",
    "checkpoint",
    "hub",
    "peft",
    "gated",
    "adapter",
    "memory",
    "catalogue",
    "installed",
    "loading",
    "sharding",
    "tasks",
    "sample_rows",
    "data",
    "decoding",
    "trace",
    "forbidden",
    "generation",
    "infilling",
    "divergence",
    "evaluation",
    "best_of",
    "run",
    "convert",
    "training",
    "bench",
    "cluster",
    "server",
    "cli",
    "__main__",
    "pocket",
]
PACKAGE = "mlx_diffucoder"
PACKAGE_OF = {name: module.split(".")[0] for name, module in mlx_diffucoder._MODULES.items()}  # `from . import generate`
ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "convert").glob("*.py"), *(ROOT / "bench").glob("*.py")])
SOURCES = [
    path
    for path in SOURCES
    if not path.is_relative_to(ROOT / PACKAGE / "bench") and not path.is_relative_to(ROOT / PACKAGE / "convert")
]


def module_of(path):
    """`convert/card.py` -> ['mlx_diffucoder', 'convert', 'card']."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == PACKAGE else [PACKAGE, *parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_packages(path):
    """The top-level modules and packages that a file imports, wherever the import is, except those for type checkers."""
    module, package = module_of(path), module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        names = [[*name[:1], PACKAGE_OF.get(name[1], name[1]), *name[2:]] if len(name) > 1 else name for name in names]
        for name in names:
            if name[0] == PACKAGE and len(name) > 1 and name[1] in ORDER and name[1] != ([*module, ""])[1]:
                yield name[1]


def test_every_module_has_its_place_in_the_order():
    found = {([*module_of(path), "__init__"])[1] for path in SOURCES} - {"__init__"}
    assert found | {"pocket"} == set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down_the_list(path):
    module = module_of(path)
    if len(module) == 1:
        return  # the package's table of contents
    own = ORDER.index(module[1])
    for name in imported_packages(path):
        assert ORDER.index(name) < own, f"{path.name} ({module[1]}) imports {name}, which comes after it"


# Both are in the right order, but each is a part that the other must work without.
FORBIDDEN = [
    ("generation", "loading"),
    ("infilling", "loading"),
    ("trace", "models"),
    ("convert", "evaluation"),
    ("training", "convert"),
    ("bench", "training"),
    ("bench", "convert"),
]


@pytest.mark.parametrize(("importer", "imported"), FORBIDDEN)
def test_parts_that_must_work_without_each_other_do(importer, imported):
    importing = [path for path in SOURCES if module_of(path)[1:2] == [importer] and "studies" not in path.parts]
    assert importing
    assert [path.name for path in importing if imported in imported_packages(path)] == []


def test_an_import_that_runs_up_is_seen(tmp_path, monkeypatch):
    (tmp_path / PACKAGE).mkdir()
    bad = tmp_path / PACKAGE / "config.py"
    bad.write_text(
        "def f():\n    from .decoding.loop import denoise\n    import mlx_diffucoder.cli.app\n    from . import generate\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert set(imported_packages(bad)) == {"decoding", "cli", "generation"}


def test_what_knows_no_model_imports_no_mlx():
    names = [
        "errors",
        "formatting",
        "file_kinds",
        "files",
        "choices",
        "config",
        "models/__init__",
        "models/base",
        "models/dream",
        "tokenizer_files",
        "tokenizer",
        "chat",
        "sample_rows",
        "data",
        "tasks",
        "decoding/canvas",
        "decoding/result",
        "decoding/torch_topk",
    ]
    for path in [*(ROOT / PACKAGE / f"{name}.py" for name in names), *(ROOT / PACKAGE / "trace").glob("*.py")]:
        assert not re.search(r"^\s*(import|from) mlx\b", path.read_text(), re.M), path


def test_nothing_is_imported_by_a_name_made_at_run_time():
    for path in SOURCES:
        if module_of(path) != [PACKAGE]:
            assert not re.search(r"import_module|__import__", path.read_text()), path
