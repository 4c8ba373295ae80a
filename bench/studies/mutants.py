"""Deliberate faults in the code, and whether the tests notice them.

    python -m bench.studies.mutants --out mutants.jsonl

needs `pip install mutmut coverage`, and works in a copy of the checkout. mutmut's operators make the faults: a changed number,
operator, comparison, condition or string, a missing argument. A seeded sample of them is put into the code, one at a time. The
tests that run the changed line are run, the shortest first, up to `--limit` seconds of them.

No faults are made in messages, docstrings, annotations and decorators; nor by None in the place of a value, which fails at once.
A run goes on with the file of an earlier one, and tries again what survived. A fault that no test can tell from the original
has the reason, as `equivalent`, written into its line of the file by hand. Ends with one line of JSON: how many are killed,
equivalent, and alive.
"""

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.errors import FileError

from .terminal import one_line

ROOT = Path(__file__).parents[2]
MUTATED = ("mlx_diffucoder/decoding/**/*.py", "mlx_diffucoder/infilling/*.py", "convert/*.py")
TESTS = (
    "decoding",
    "infilling",
    "convert",
    "divergence",
    *(f"cli/test_{name}.py" for name in ("infill", "convert", "calibrate")),
)
COPIED = ("mlx_diffucoder", "convert", "bench", "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md")


@dataclass(frozen=True)
class Mutant:
    """One fault: the file, its lines, and the text there before and after."""

    file: str
    line: int
    last_line: int
    before: str
    after: str


Row = dict[str, Any]
"""A fault, and what became of it."""
Faulty = tuple[Mutant, Callable[[], str]]
"""A fault, and what makes the file's source with it."""


def faults_of(file: str, source: str) -> Iterator[Faulty]:
    """Every fault that mutmut's operators make in a file."""
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators, operator_assignment

    wrapper = MetadataWrapper(cst.parse_module(source))
    module, position_of = wrapper.module, wrapper.resolve(PositionProvider)
    operators = [(kind, operator) for kind, operator in mutation_operators if operator is not operator_assignment]

    def visit(node: Any, expression: Any) -> Iterator[Faulty]:
        if isinstance(node, cst.Annotation | cst.Raise | cst.Import | cst.ImportFrom | cst.Decorator):
            return
        if isinstance(node, cst.Arg) and node.keyword and node.keyword.value == "strict":
            return
        expression = node if node in position_of else expression
        at = position_of[expression]
        for new in (new for kind, operator in operators if isinstance(node, kind) for new in operator(node)):
            before, after = (" ".join(module.code_for_node(one).split()) for one in (node, new))
            if isinstance(new, cst.SimpleString) and new.value.lower() == node.value.lower():  # one fault a string
                continue
            if isinstance(node, cst.Call) and after.count("None") > before.count("None"):
                continue
            yield Mutant(file, at.start.line, at.end.line, before, after), partial(changed, module, node, new)
        for child in node.children:
            yield from visit(child, expression)

    def changed(module: Any, node: Any, new: Any) -> str:
        return module.deep_replace(node, new).code

    yield from visit(module, module)


def sample_of(folder: Path, count: int, seed: int) -> Iterator[tuple[Mutant, str]]:
    """A sample of the faults of all files, and the source of each; those that leave the program as it is are passed over."""
    files = sorted(path for pattern in MUTATED for path in folder.glob(pattern))
    every = [one for path in files for one in faults_of(str(path.relative_to(folder)), path.read_text())]
    random.Random(seed).shuffle(every)
    typer.echo(f"{count} of {len(every)} faults", err=True)
    seen = {ast.dump(ast.parse(path.read_text())) for path in files}
    for mutant, make in every:
        source = make()
        try:
            program = ast.dump(ast.parse(source))
        except SyntaxError:
            continue
        if program not in seen:
            seen.add(program)
            yield mutant, source
            count -= 1
        if not count:
            return


class Tests:
    """Which tests run a line, and how long each takes, from one run under coverage."""

    def __init__(self, folder: Path):
        import coverage

        ran = coverage.CoverageData(str(folder / ".coverage"))
        ran.read()
        self._ran, self._folder = ran, folder
        self.seconds: dict[str, float] = defaultdict(float)
        for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
            self.seconds[f"{case.get('classname')}.{case.get('name', '').partition('[')[0]}"] += float(case.get("time", 0))

    def of(self, mutant: Mutant, limit: float) -> list[str]:
        """The tests to run, the shortest first: at most `limit` seconds of them."""
        lines: Mapping[int, list[str]] = self._ran.contexts_by_lineno(str(self._folder / mutant.file))
        found = {test for line in range(mutant.line, mutant.last_line + 1) for test in lines.get(line, ()) if test}
        if not found:  # run when the module is imported
            found = {test for tests in lines.values() for test in tests if test}
        chosen, used = list[str](), 0.0
        for test in sorted(found & self.seconds.keys(), key=lambda one: self.seconds[one]):
            used += self.seconds[test]
            if used > limit and chosen:
                break
            module, _, name = test.rpartition(".")
            chosen.append(f"{module.replace('.', '/')}.py::{name}")
        return chosen


def run_tests(folder: Path, arguments: list[str], timeout: float | None, under: tuple[str, ...] = ()) -> tuple[str | None, str]:
    """Run tests in the copy. Returns the first that failed, `timeout`, or None if all passed; and what was printed."""
    command = [
        sys.executable,
        *under,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-x",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "--hypothesis-seed=0",
    ]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return "timeout", ""
    failed = next((line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), None)
    return None if done.returncode == 0 else failed or f"exit code {done.returncode}", done.stdout + done.stderr


def copy_checkout(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def measure_coverage(folder: Path) -> None:
    """Run the unchanged code's tests under coverage, with the name of each test."""
    (folder / ".coveragerc").write_text("[run]\ndynamic_context = test_function\n")
    failed, said = run_tests(
        folder, [*(f"tests/{name}" for name in TESTS), "--junitxml=junit.xml"], None, ("-m", "coverage", "run")
    )
    if failed:
        raise FileError(f"{failed}: fails in the unchanged code\n{said[-2000:]}")


def outcome(row: Row) -> str:
    return "equivalent" if row.get("equivalent") else "killed" if row.get("killed_by") else "alive"


def try_all(folder: Path, out: Path, sample: int, seed: int, limit: float) -> None:
    """Try each fault of the sample that is not in `out` yet, or survived; every outcome is written at once."""
    tests = Tests(folder)
    rows: dict[Mutant, Row] = {}
    if out.exists():
        for row in map(json.loads, out.read_text().splitlines()):
            rows[Mutant(*(row[field.name] for field in fields(Mutant)))] = row
    for mutant, source in sample_of(folder, sample, seed):
        if mutant in rows and outcome(rows[mutant]) != "alive":
            continue
        path, selected = folder / mutant.file, tests.of(mutant, limit)
        original = path.read_text()
        path.write_text(source)
        killed_by, _ = run_tests(folder, selected, 4 * limit + 60) if selected else (None, "")
        path.write_text(original)
        rows[mutant] = asdict(mutant) | {"killed_by": killed_by, "tests": len(selected)}
        ordered = sorted(rows.values(), key=lambda row: (row["file"], row["line"]))
        out.write_text("".join(json.dumps(row) + "\n" for row in ordered))
    typer.echo(json.dumps(Counter(map(outcome, rows.values()))))


def main(
    out: Annotated[Path, typer.Option(help="JSON lines, one a fault")],
    sample: Annotated[int, typer.Option(min=1)] = 300,
    seed: Annotated[int, typer.Option()] = 0,
    limit: Annotated[float, typer.Option(help="seconds of tests a fault")] = 40.0,
) -> None:
    """Put faults into a copy of the code and run the tests that reach them."""
    with one_line("mutants"), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        copy_checkout(folder)
        measure_coverage(folder)
        try_all(folder, out, sample, seed, limit)


if __name__ == "__main__":
    typer.run(main)
