"""The stretches of a text that are Python, as parsed statements.

Text around code does not parse, so it falls out. EvalPlus (arXiv 2305.01210) keeps the longest stretch; here all are kept,
and `needed` takes the statements that the program needs.
"""

import ast
import symtable
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

LONGEST = 400_000  # characters of a text that is searched
TRIES = 4000  # parses of one text

NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)


def parse(text: str) -> ast.Module:
    """The syntax tree of a text. Raises one of `NOT_PYTHON`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def parses(text: str) -> bool:
    """Whether a text, or what it is without its indentation, is Python with at least one statement."""
    try:
        return bool(parse(textwrap.dedent(text)).body)
    except NOT_PYTHON:
        return False


@dataclass(frozen=True)
class Unit:
    """Statements at the left margin that share their lines; mostly one statement.

    Attributes:
        nodes: their syntax trees.
        text: their lines.
    """

    nodes: tuple[ast.stmt, ...]
    text: str

    @cached_property
    def binds(self) -> frozenset[str]:
        """The names of the module that it defines, assigns, or changes in place."""
        return frozenset(name for node in self.nodes for name in _bound(node))

    @cached_property
    def uses(self) -> frozenset[str]:
        """The names of the module that it reads, also from within functions."""
        try:
            table = symtable.symtable(self.text, "<answer>", "exec")
        except NOT_PYTHON:
            return frozenset(node.id for one in self.nodes for node in ast.walk(one) if isinstance(node, ast.Name))
        top = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
        return frozenset(top | {name for child in table.get_children() for name in _globals(child)})


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    yield from (symbol.get_name() for symbol in table.get_symbols() if symbol.is_global())
    for child in table.get_children():
        yield from _globals(child)


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
        yield from _root(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _root(node.func)  # `table.append(1)` may change the table
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


def _root(node: ast.AST) -> Iterator[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def units(text: str) -> list[Unit]:
    """The statements of a text that parses. Raises one of `NOT_PYTHON`."""
    lines, groups = text.split("\n"), list[tuple[int, int, list[ast.stmt]]]()
    for node in parse(text).body:
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        last = node.end_lineno or node.lineno
        if groups and first <= groups[-1][1]:
            start, _, nodes = groups[-1]
            groups[-1] = (start, max(last, groups[-1][1]), [*nodes, node])
        else:
            groups.append((first, last, [node]))
    return [Unit(tuple(nodes), "\n".join(lines[first - 1 : last]) + "\n") for first, last, nodes in groups]


def longest_prefix(lines: Sequence[str]) -> tuple[list[Unit], int]:
    """The longest run of first lines that is Python: its statements, and its number of lines (0 if there is none)."""
    end = len(lines)
    while end > 0:
        try:
            return units("\n".join(lines[:end])), end
        except SyntaxError as error:
            # Nothing up to the line of the error can be wrong before it, and nothing that holds it can be right.
            end = min((error.lineno or end) - 1, end - 1)
        except NOT_PYTHON:
            end -= 1 + end // 8
    return [], 0


def segments(text: str) -> list[list[Unit]]:
    """The stretches of a text that are Python, each as its statements."""
    lines = textwrap.dedent(text[:LONGEST]).split("\n")
    found, at = list[list[Unit]](), 0
    for _ in range(TRIES):
        while at < len(lines) and (not lines[at].strip() or lines[at][0] in " \t"):
            at += 1  # a statement of a module begins at the left margin
        if at >= len(lines):
            break
        run, length = longest_prefix(lines[at:])
        if run:
            found.append(run)
        at += max(length, 1)
    return found
