"""The statements that a program needs to define some names.

As in EvalPlus (arXiv 2305.01210), an answer's own examples, `input()` calls and main programs are left out. More than there
is kept: loops that fill a table, `sys.setrecursionlimit`, imports under `try`.
"""

import ast
import builtins
from collections.abc import Collection, Iterable, Sequence

from .segments import NOT_PYTHON, Unit, units

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}
# What reads names that are not written out.
DYNAMIC = {"eval", "exec", "globals", "locals", "vars"}


def names_tested(tests: str) -> set[str]:
    """The names that tests take from the program; empty where they cannot be told."""
    try:
        found = units(tests)
    except NOT_PYTHON:
        return set()
    used = {name for unit in found for name in unit.uses}
    bound = {name for unit in found for node in unit.nodes if not isinstance(node, ast.Expr) for name in unit.binds}
    return used - bound - BUILTINS


def defined(run: Iterable[Unit], names: Collection[str]) -> set[str]:
    """Which of some names a run of statements defines."""
    return {name for unit in run if not _is_effect(unit) for name in unit.binds if name in names}


def returns(run: Iterable[Unit], name: str) -> bool:
    """Whether the last definition of a name is more than a stub: a function with a `return` or `yield`, or no function."""
    for unit in reversed(list(run)):
        for node in reversed(unit.nodes):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return any(isinstance(one, ast.Return | ast.Yield | ast.YieldFrom) for one in ast.walk(node))
        if name in unit.binds and not _is_effect(unit):
            return True
    return False


def program(run: Sequence[Unit], others: Sequence[Sequence[Unit]], roots: Collection[str], given: Collection[str] = ()) -> str:
    """The text of a program that defines `roots`.

    Args:
        run: statements that define them.
        others: runs to take missing names from, the first choice first.
        given: names that need no definition.
    """
    kept = _reachable(run, roots)
    if any(unit.uses & DYNAMIC for unit in kept):  # what they read cannot be told
        kept = [unit for unit in run if unit in kept or not (_is_main(unit) or _is_effect(unit))]
    missing = {*roots, *(name for unit in kept for name in unit.uses)} - {name for unit in kept for name in unit.binds}
    missing -= BUILTINS | set(given)
    before = list[Unit]()
    for other in others:
        if found := defined(other, missing):
            extra = _reachable(other, found)
            before = [*extra, *before]
            missing -= found
    kept = [*before, *kept]
    # Python wants these first.
    kept.sort(key=lambda unit: not _is_future(unit))
    return "".join(unit.text for unit in kept)


def _reachable(run: Sequence[Unit], roots: Collection[str]) -> list[Unit]:
    wanted, kept = set(roots), set[int]()
    changed = True
    while changed:
        changed = False
        for number, unit in enumerate(run):
            if number not in kept and _is_needed(unit, wanted, roots):
                kept.add(number)
                wanted |= unit.uses
                changed = True
    return [unit for number, unit in enumerate(run) if number in kept]


def _is_needed(unit: Unit, wanted: set[str], roots: Collection[str]) -> bool:
    if _is_future(unit) or any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in unit.nodes):
        return True
    if _is_main(unit):
        return False
    if _is_effect(unit):
        return _changes(unit, wanted) and not unit.uses & set(roots)
    return bool(unit.binds & wanted)


def _is_future(unit: Unit) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in unit.nodes)


def _is_main(unit: Unit) -> bool:
    """`if __name__ == "__main__":`, or an `assert`."""
    return all(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.If) and any(isinstance(one, ast.Name) and one.id == "__name__" for one in ast.walk(node.test)))
        for node in unit.nodes
    )


def _is_effect(unit: Unit) -> bool:
    """An expression, evaluated for what it does."""
    return all(isinstance(node, ast.Expr) for node in unit.nodes)


def _changes(unit: Unit, wanted: set[str]) -> bool:
    """Whether an expression prepares something that is wanted: `table.append(1)`, `sys.setrecursionlimit(9999)`."""
    for node in unit.nodes:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            if call.func.attr.startswith(("set", "seed")):
                return True
            if unit.binds & wanted and call.func.attr not in ("exit", "main", "testmod", "run"):
                return True
    return False
