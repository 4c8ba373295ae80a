"""Families that return one thing, alone or inside an outer operation: `the square of` ... `the number of vowels in s`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .family import PLAIN, Composition, Draft, Drawer, Part, around, filled

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
        Part(name="even", says=("whether E is even",), code="E % 2 == 0", means=lambda v: v % 2 == 0, gives="bool"),
        Part(
            name="above",
            says=("whether E is greater than N",),
            code="E > N",
            means=lambda v, n: v > n,
            blanks=SMALL,
            gives="bool",
        ),
        Part(name="text", says=("E as a string", "E converted to a string"), code="str(E)", means=str, gives="str"),
    ),
    "bool": (
        Part(
            name="yes",
            says=("'yes' if E and 'no' otherwise",),
            code="'yes' if E else 'no'",
            means=lambda v: "yes" if v else "no",
            gives="str",
        ),
        Part(name="one", says=("1 if E and 0 otherwise",), code="1 if E else 0", means=lambda v: 1 if v else 0),
        Part(name="not", says=("False if E and True otherwise",), code="not E", means=lambda v: not v, gives="bool"),
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
            gives="str",
        ),
    ),
    "str": (
        Part(name="upper", says=("the upper case form of E",), code="E.upper()", means=str.upper, gives="str"),
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1], gives="str"),
        Part(name="copies", says=("N copies of E",), code="E * N", means=lambda v, n: v * n, blanks=SMALL, gives="str"),
        Part(
            name="first", says=("the first N characters of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL, gives="str"
        ),
        Part(
            name="last", says=("the last N characters of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL, gives="str"
        ),
        Part(name="count", says=("the number of times C occurs in E",), code="E.count(C)", means=str.count, blanks=LETTER),
        Part(
            name="starts",
            says=("whether E starts with C",),
            code="E.startswith(C)",
            means=str.startswith,
            blanks=LETTER,
            gives="bool",
        ),
    ),
    "ints": (
        Part(name="sum", says=("the sum of E",), code="sum(E)", means=sum),
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1], gives="ints"),
        Part(
            name="first", says=("the first N elements of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL, gives="ints"
        ),
        Part(
            name="last", says=("the last N elements of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL, gives="ints"
        ),
        Part(name="sorted", says=("the sorted form of E",), code="sorted(E)", means=sorted, gives="ints"),
        Part(name="holds", says=("whether N is in E",), code="N in E", means=lambda v, n: n in v, blanks=SMALL, gives="bool"),
    ),
    "words": (
        Part(
            name="joined",
            says=("the string that joins E with C",),
            code="C.join(E)",
            means=lambda v, c: c.join(v),
            blanks=("-", ", ", " ", "+"),
            gives="str",
        ),
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1], gives="words"),
        Part(
            name="first", says=("the first N elements of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL, gives="words"
        ),
        Part(
            name="last", says=("the last N elements of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL, gives="words"
        ),
        Part(name="sorted", says=("the sorted form of E",), code="sorted(E)", means=sorted, gives="words"),
    ),
    "rows": (
        Part(name="length", says=("the length of E",), code="len(E)", means=len),
        Part(name="reverse", says=("the reverse of E",), code="E[::-1]", means=lambda v: v[::-1], gives="rows"),
        Part(
            name="first", says=("the first N elements of E",), code="E[:N]", means=lambda v, n: v[:n], blanks=SMALL, gives="rows"
        ),
        Part(
            name="last", says=("the last N elements of E",), code="E[-N:]", means=lambda v, n: v[-n:], blanks=SMALL, gives="rows"
        ),
    ),
    "table": (
        Part(name="length", says=("the number of keys in E",), code="len(E)", means=len),
        Part(name="keys", says=("the sorted list of the keys of E",), code="sorted(E)", means=sorted, gives=""),
        Part(
            name="values",
            says=("the sorted list of the values of E",),
            code="sorted(E.values())",
            means=lambda v: sorted(v.values()),
            gives="",
        ),
        Part(
            name="items",
            says=("the sorted list of the items of E",),
            code="sorted(E.items())",
            means=lambda v: sorted(v.items()),
            gives="",
        ),
    ),
}
# Operations that only training has around others, so that more pairs are met than are asked for.
MORE_OUTER: dict[str, tuple[Part, ...]] = {
    "int": (
        Part(name="thrice", says=("three times E",), code="E * 3", means=lambda v: v * 3),
        Part(name="cube", says=("the cube of E",), code="E ** 3", means=lambda v: v**3),
        Part(name="half", says=("half of E, rounded down",), code="E // 2", means=lambda v: (v - v % 2) // 2),
        Part(name="absolute", says=("the absolute value of E",), code="abs(E)", means=lambda v: max(v, -v)),
        Part(name="odd", says=("whether E is odd",), code="E % 2 == 1", means=lambda v: v % 2 == 1, gives="bool"),
        Part(
            name="below",
            says=("whether E is less than N",),
            code="E < N",
            means=lambda v, n: v < n,
            blanks=SMALL,
            gives="bool",
        ),
    ),
    "bool": (
        Part(name="sign", says=("1 if E and -1 otherwise",), code="1 if E else -1", means=lambda v: 1 if v else -1),
        Part(
            name="on",
            says=("'on' if E and 'off' otherwise",),
            code="'on' if E else 'off'",
            means=lambda v: "on" if v else "off",
            gives="str",
        ),
    ),
    "str": (
        Part(name="lower", says=("the lower case form of E",), code="E.lower()", means=str.lower, gives="str"),
        Part(name="capitalized", says=("the capitalized form of E",), code="E.capitalize()", means=str.capitalize, gives="str"),
        Part(name="words", says=("the number of words in E",), code="len(E.split())", means=lambda v: len(v.split())),
        Part(name="ends", says=("whether E ends with C",), code="E.endswith(C)", means=str.endswith, blanks=LETTER, gives="bool"),
        Part(name="holds", says=("whether E contains C",), code="C in E", means=lambda v, c: c in v, blanks=LETTER, gives="bool"),
    ),
    "ints": (
        Part(name="distinct", says=("the number of distinct values in E",), code="len(set(E))", means=lambda v: len(set(v))),
        Part(name="every other", says=("every second element of E",), code="E[::2]", means=lambda v: v[::2], gives="ints"),
        Part(name="copies", says=("E repeated N times",), code="E * N", means=lambda v, n: v * n, blanks=SMALL, gives="ints"),
        Part(name="occurrences", says=("the number of times N occurs in E",), code="E.count(N)", means=list.count, blanks=SMALL),
    ),
    "words": (
        Part(name="distinct", says=("the number of distinct words in E",), code="len(set(E))", means=lambda v: len(set(v))),
        Part(name="every other", says=("every second element of E",), code="E[::2]", means=lambda v: v[::2], gives="words"),
    ),
    "rows": (Part(name="every other", says=("every second element of E",), code="E[::2]", means=lambda v: v[::2], gives="rows"),),
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

    def draw(self, random: Drawer, composition: Composition, *, classic: bool = False) -> Draft:
        says, bodies, means = random.choice(self.says[: self.classic] if classic else self.says), self.code, self.means
        if self.blanks:
            blank = random.blank(self.blanks)
            says, means = filled(says, blank=blank), _last(means, blank)
            bodies = tuple(filled(body, blank=blank) for body in bodies)
        if composition != PLAIN:
            outer = next(part for part in OUTER[self.gives] if part.name == composition[0])
        elif self.gives == "bool":
            says = filled(random.choice(TRUE[:3] if classic else TRUE), E=says)
        draft = Draft(family=self.name, composition=composition, says=says, bodies=bodies, takes=self.takes, means=means)
        return draft if composition == PLAIN else enclosed(random, draft, self.gives, outer)

    def value(self, composition: Composition) -> str:
        """The kind of what a composition returns."""
        return self.gives if composition == PLAIN else next(one.gives for one in OUTER[self.gives] if one.name == composition[0])


def enclosed(random: Drawer, draft: Draft, gives: str, outer: Part) -> Draft:
    """A draft inside an outer operation on its value, whose kind is `gives`."""
    picked, means = outer.pick(random), draft.means
    says = draft.says.removeprefix("whether ") if gives == "bool" else draft.says
    return replace(
        draft,
        says=filled(picked.says, E=_closed(says, gives)),
        bodies=tuple(around(body, picked) for body in draft.bodies),
        means=lambda *arguments: picked.means(means(*arguments)),
    )


# Wordings whose end would be read as part of what is put around them: "the first 3 elements of X in reverse order".
OPEN = re.compile(r"^(?!the |a )|,|\bin \w+ order|\bas (one|a)\b| down to |converted")


def _closed(says: str, gives: str) -> str:
    return f"({says})" if gives != "bool" and OPEN.search(says) else says


def _last(means: Callable[..., Any], blank: int | str) -> Callable[..., Any]:
    return lambda *arguments: means(*arguments, blank)
