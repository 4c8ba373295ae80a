"""The page on the architecture names the files that there are, and the order that a test holds."""

import re
from pathlib import Path

from ..test_import_order import ORDER

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "project" / "architecture.md").read_text()
TREE, IMPORTS = re.findall(r"```text\n(.*?)```", PAGE, re.S)


def test_the_tree_names_every_module_and_package():
    own = TREE.partition("convert/ ")[0]
    lines = [re.split(r" {2,}", line.strip())[0] for line in own.splitlines()[1:] if re.match(r" {2}\S", line)]
    named = {name.rstrip("/") for line in lines for name in line.split()}
    package = ROOT / "mlx_diffucoder"
    there = {path.name for path in package.iterdir() if path.suffix == ".py" or (path.is_dir() and not path.is_symlink())}
    assert named == there - {"__pycache__"}


def test_the_order_of_imports_is_the_tested_one():
    assert re.split(r"[\s→]+", IMPORTS.strip()) == ORDER


def test_functions_and_classes_stand_where_the_page_says():
    rows = re.findall(r"`(\w+)` in `([\w/]+\.py)`", PAGE)
    assert len(rows) >= 5
    for name, file in rows:
        assert re.search(rf"^(?:def|class) {name}\b|^{name}\b.*=", (ROOT / file).read_text(), re.M), (name, file)
