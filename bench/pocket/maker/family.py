"""What a family of tasks is: wordings, ways to write it, what it means, and what it is tested on.

Texts of families hold one-letter blanks: X, Y are the function's arguments, V the variable of a loop, K a key's,
N a number and C a text drawn for each task, and E what stands inside.
"""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from string import ascii_lowercase
from typing import Any, Protocol

BLANK = re.compile(r"\b[CEKNVXY]\b")
Composition = tuple[str, ...]
PLAIN: Composition = ("plain",)


class Drawer(Random):
    """A source of chance; a share of the blanks and names, `wide`, is filled with more than evaluations use.

    What stands in a few places only is learnt by heart there; what may be anything has to be copied.
    """

    def __init__(self, seed: int | str, *, wide: float = 0.0):
        super().__init__(seed)
        self._wide = wide

    def widely(self) -> bool:
        """Whether to leave the usual this time."""
        return self._wide > 0 and self.random() < self._wide

    def blank(self, blanks: Sequence[int | str]) -> int | str:
        """One of the blanks; or a number or a letter that is none of them, where they are numbers or letters."""
        usual = self.choice(blanks)
        if not self.widely():
            return usual
        if isinstance(usual, int):
            return self.randint(2, 29 if max(map(int, blanks)) < 10 else 99)
        return self.choice(ascii_lowercase) if all(len(str(one)) == 1 and str(one).isalpha() for one in blanks) else usual


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A task before its names are chosen: what to return, the function's body, and what it means.

    Attributes:
        family, composition: where it came from.
        says: the noun phrase of what is returned, the arguments as X and Y.
        bodies: the lines of the function, in each way that they can be written, the arguments as X and Y.
        takes: the kind of each argument (see `arguments.KINDS`).
        means: the same in plain Python, for the tests' answers.
        nested: the outer operations around the composition, from the inside.
    """

    family: str
    composition: Composition
    says: str
    bodies: tuple[str, ...]
    takes: tuple[str, ...]
    means: Callable[..., Any]
    nested: tuple[str, ...] = ()


class Family(Protocol):
    """A kind of task: its compositions, and a draft of any of them."""

    @property
    def name(self) -> str: ...
    @property
    def compositions(self) -> tuple[Composition, ...]: ...
    def __hash__(self) -> int: ...
    def value(self, composition: Composition) -> str: ...
    def draw(self, random: Drawer, composition: Composition) -> Draft: ...


@dataclass(frozen=True)
class Picked:
    """A part with its wording chosen and its blank filled."""

    says: str
    code: str
    means: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A filter, a map or an outer operation: a piece that compositions are made of.

    Attributes:
        says: wordings; `*` or E is what it is applied to.
        code: the expression.
        means: the same in Python; takes the value, and the blank's where there is one.
        blanks: what N or C may be; none where the part has no blank.
        gives: the kind of its value.
    """

    name: str
    says: tuple[str, ...]
    code: str
    means: Callable[..., Any]
    blanks: Sequence[int | str] = ()
    gives: str = "int"

    def pick(self, random: Drawer) -> Picked:
        says = random.choice(self.says)
        if not self.blanks:
            return Picked(says, self.code, self.means)
        blank, means = random.blank(self.blanks), self.means
        return Picked(filled(says, blank=blank), filled(self.code, blank=blank), lambda value: means(value, blank))


def filled(text: str, *, blank: int | str | None = None, **blanks: str) -> str:
    """A text with its blanks filled: `blank` stands for N or C, a text in quotes."""
    if blank is not None:
        blanks |= {"N": str(blank), "C": repr(blank)}
    return BLANK.sub(lambda match: blanks.get(match[0], match[0]), text)


@lru_cache(maxsize=1 << 14)
def grouped(expression: str) -> str:
    """The expression as an operand: in brackets unless it is a name, a call, a list or the like."""
    node = ast.parse(expression, mode="eval").body
    whole = (ast.Name, ast.Call, ast.Subscript, ast.Constant, ast.Attribute, ast.List, ast.ListComp, ast.Dict, ast.DictComp)
    return expression if isinstance(node, whole) else f"({expression})"


def around(body: str, outer: Picked) -> str:
    """The body with the outer operation put around whatever it returns; constants are worked out."""
    return re.sub(r"\breturn (.+)", lambda match: f"return {_around(match[1], outer)}", body)


def _around(expression: str, outer: Picked) -> str:
    try:
        return repr(outer.means(ast.literal_eval(expression)))
    except ValueError:
        pass  # no constant
    # An argument of a call needs no brackets of its own, and a condition only where it is a choice itself.
    bare = re.search(r"\(E\)|\(E,|, E\)| if E else ", outer.code) and " if " not in expression
    return filled(outer.code, E=expression if bare else grouped(expression))
