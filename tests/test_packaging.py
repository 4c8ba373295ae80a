"""What a wheel holds, and that it works away from the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_ALL = (
    "import mlx_diffucoder, mlx_diffucoder.convert, mlx_diffucoder.bench, mlx_diffucoder.cli, mlx_diffucoder.evaluation\n"
    "from mlx_diffucoder import load\n"
    "model, tokenizer = load('pocket')\n"
    "print(mlx_diffucoder.convert.__file__)"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a clean copy: a stale build folder would ship files that are gone."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "tests")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    out = tmp_path_factory.mktemp("wheel")
    script = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_one_package_and_its_metadata(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mlx_diffucoder"}
    for name in (
        "convert/converter.py",
        "bench/__init__.py",
        "bench/chips.json",
        "bench/reference.safetensors",
        "cli/app.py",
        "trace/page.html",
        "evaluation/runner/wire.py",
        "pocket/model.safetensors",
        "pocket/tokenizer.json",
        "py.typed",
    ):
        assert f"mlx_diffucoder/{name}" in names
    assert len(names) == len(set(names))
    assert [name for name in names if name.endswith(".jsonl")] == ["mlx_diffucoder/texts.jsonl"]


def test_the_wheel_holds_every_module_of_the_checkout(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = (ROOT / "mlx_diffucoder").rglob("*.py")  # follows no symlinks
    modules = [f"mlx_diffucoder/{path.relative_to(ROOT / 'mlx_diffucoder')}" for path in inside]
    modules += [
        f"mlx_diffucoder/{path.relative_to(ROOT)}" for name in ("convert", "bench") for path in (ROOT / name).glob("*.py")
    ]
    assert set(modules) <= names
    assert not [name for name in names if name.startswith(("mlx_diffucoder/bench/studies", "mlx_diffucoder/bench/pocket"))]


def test_the_bundled_checkpoint_is_small():
    size = sum(file.stat().st_size for file in (ROOT / "mlx_diffucoder" / "pocket").iterdir() if file.is_file())
    assert size <= 12e6


def test_an_unpacked_wheel_imports_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    # -P: without the current folder; the wheel's copy comes before the installed one on the path.
    script = f"import sys; sys.path.insert(0, {str(site)!r})\n{IMPORT_ALL}"
    done = subprocess.run([sys.executable, "-c", script], cwd=empty, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout


def test_the_installed_package_imports_from_an_empty_folder(tmp_path):
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
