"""Families that return one thing, alone or inside an outer operation: `the square of` ... `the number of vowels in s`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from .family import PLAIN, Composition, Draft, Part, around, filled

SMALL = tuple(range(2, 10))
LETTER = tuple("abcdeiost")
OUTER: dict[str, tuple[Part, ...]] = {
    "int": (
        Part(name="twice", says=("twice E", "two times E"), code="E * 2", means=lambda v: v * 2),
        Part(name="square", says=("the square of E",), code="E ** 2", means=lambda v: v**2),
        Part(name="more", says=("N more than E",), code="E + N", means=lambda v, n: v + n, blanks=SMALL),
        Part(name="less", says=("N less than E",), code="E - N", means=lambda v, n: v - n, blanks=SMALL),
        Part(name="negation", says=("the negation of E",), code="-E", means=lambda v: -v),
        Part(name="remainder", says=("the remainder of E modulo N",), code="E % N", means=lambda v, n: v % n, blanks=SMALL),
        Part(name="even", says=("whether E is even",), code="E % 2 == 0", means=lambda v: v % 2 == 0),
        Part(name="above", says=("whether E is greater than N",), code="E > N", means=lambda v, n: v > n, blanks=SMALL),
        Part(name="text", says=("E as a string", "E converted to a string"), code="str(E)", means=str),
    ),
    "bool": (
        Part(
            name="yes", says=("'yes' if E and 'no' otherwise",), code="'yes' if E else 'no'", means=lambda v: "yes" if v else "no"
        ),
        Part(name="one", says=("1 if E and 0 otherwise",), code="1 if E else 0", means=lambda v: 1 if v else 0),
        Part(name="not", says=("False if E and True otherwise",), code="not E", means=lambda v: not v),
        Part(
            name="number",
            says=("N if E and -1 otherwise",),
            code="N if E else -1",
            means=lambda v, n: n if v else -1,
            blanks=SMALL,
        ),
        Part(
            name="good",
            says=("'good' if E and 'bad' otherwise",),
            code="'good' if E else 'bad'",
            means=lambda v: "good" if v else "bad",
        ),
    ),
    "str": (
        Part(name="upper", says=("the upper case form of E",), code="E.upper()", means=str.upper),
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1]),
        Part(name="copies", says=("N copies of E",), code="E * N", means=lambda v, n: v * n, blanks=SMALL),
        Part(name="first", says=("the first N characters of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL),
        Part(name="last", says=("the last N characters of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL),
        Part(name="count", says=("the number of times C occurs in E",), code="E.count(C)", means=str.count, blanks=LETTER),
        Part(name="starts", says=("whether E starts with C",), code="E.startswith(C)", means=str.startswith, blanks=LETTER),
    ),
    "ints": (
        Part(name="sum", says=("the sum of E",), code="sum(E)", means=sum),
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1]),
        Part(name="first", says=("the first N elements of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL),
        Part(name="last", says=("the last N elements of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL),
        Part(name="sorted", says=("the sorted form of E",), code="sorted(E)", means=sorted),
        Part(name="holds", says=("whether N is in E",), code="N in E", means=lambda v, n: n in v, blanks=SMALL),
    ),
    "words": (
        Part(
            name="joined",
            says=("the string that joins E with C",),
            code="C.join(E)",
            means=lambda v, c: c.join(v),
            blanks=("-", ", ", " ", "+"),
        ),
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1]),
        Part(name="first", says=("the first N elements of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL),
        Part(name="last", says=("the last N elements of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL),
        Part(name="sorted", says=("the sorted form of E",), code="sorted(E)", means=sorted),
    ),
    "rows": (
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1]),
        Part(name="first", says=("the first N elements of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL),
        Part(name="last", says=("the last N elements of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL),
    ),
    "table": (
        Part(name="length", says=("the number of keys in E",), code="len(E)", means=len),
        Part(name="keys", says=("the sorted list of the keys of E",), code="sorted(E)", means=sorted),
        Part(
            name="values",
            says=("the sorted list of the values of E",),
            code="sorted(E.values())",
            means=lambda v: sorted(v.values()),
        ),
        Part(
            name="items", says=("the sorted list of the items of E",), code="sorted(E.items())", means=lambda v: sorted(v.items())
        ),
    ),
}
OUTER["int table"] = OUTER["table"]
OUTER["list table"] = OUTER["table"]
TRUE = ("whether E", "whether E", "True if E", "True if E and False otherwise")


@dataclass(frozen=True, kw_only=True)
class Single:
    """A family with a wording and a body of its own, and as compositions the outer operations on its value.

    Attributes:
        says: noun phrases of what is returned; for a truth value, sentences ("X is odd").
        code: bodies, each a way of writing the same.
        means: the same in Python; takes the arguments, and the blank's value where there are blanks.
        takes, gives: the kinds of its arguments and of its value; a value that may be None has no outer operations.
        blanks: what N or C may be.
        classic: how many of the wordings, from the first, are in the first pocket model's tasks; 0 where it had no such task.
        kin: shared by families with the same code, so that what is unseen of one is unseen of all.
    """

    name: str
    says: tuple[str, ...]
    code: tuple[str, ...]
    means: Callable[..., Any]
    takes: tuple[str, ...]
    gives: str
    blanks: Sequence[int | str] = ()
    classic: int = 0
    kin: str = ""

    @cached_property
    def compositions(self) -> tuple[Composition, ...]:
        return (PLAIN, *((outer.name,) for outer in OUTER.get(self.gives, ())))

    def draw(self, random: Random, composition: Composition, *, classic: bool = False) -> Draft:
        says, bodies, means = random.choice(self.says[: self.classic] if classic else self.says), self.code, self.means
        if self.blanks:
            blank = random.choice(self.blanks)
            says, means = filled(says, blank=blank), _last(means, blank)
            bodies = tuple(filled(body, blank=blank) for body in bodies)
        if composition != PLAIN:
            outer = next(part for part in OUTER[self.gives] if part.name == composition[0]).pick(random)
            says, means = filled(outer.says, E=_closed(says, self.gives)), _after(means, outer.means)
            bodies = tuple(around(body, outer) for body in bodies)
        elif self.gives == "bool":
            says = filled(random.choice(TRUE[:3] if classic else TRUE), E=says)
        return Draft(family=self.name, composition=composition, says=says, bodies=bodies, takes=self.takes, means=means)


# Wordings whose end would be read as part of what is put around them: "the first 3 elements of X in reverse order".
OPEN = re.compile(r"^(?!the |a )|,|\bin \w+ order|\bas (one|a)\b| down to |converted")


def _closed(says: str, gives: str) -> str:
    return f"({says})" if gives != "bool" and OPEN.search(says) else says


def _last(means: Callable[..., Any], blank: int | str) -> Callable[..., Any]:
    return lambda *arguments: means(*arguments, blank)


def _after(inner: Callable[..., Any], outer: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: outer(inner(*arguments))
