"""Families of control flow: branches, early returns, any and all, replacing some elements, two lists in step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from .conditions import (
    ADJECTIVES,
    BOTH,
    CHANGES,
    CONDITIONS,
    LABELS,
    MADE,
    NONE,
    NUMBER,
    NUMBERS,
    OF_RESULT,
    ONE,
    PAIRED,
    QUANTIFIERS,
    RESULTS,
    SIZES,
    SORTS,
    TOGETHER,
    number,
)
from .family import Composition, Draft, Drawer, Part, filled


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A family of all combinations of some parts, each in its place in a wording and in bodies.

    Attributes:
        says: wordings; `{0}`, `{1}`, ... are the parts'.
        code: bodies; the same, the parts' about V.
        means: from the picked parts' meanings and the arguments to the value.
        parts: what may stand in each place.
        about: what the parts speak of: `*` and V.
        inner: what stands inside the first part's code, as its `*`.
        differ: places that may not hold the same part.
        gives: the kind of its value, where that is the same for all and never None.
    """

    name: str
    says: tuple[str, ...]
    code: tuple[str, ...]
    means: Any
    takes: tuple[str, ...]
    parts: Sequence[Sequence[Part]]
    about: str = "X"
    inner: str = ""
    differ: tuple[int, int] | None = None
    gives: str = ""

    @cached_property
    def compositions(self) -> tuple[Composition, ...]:
        every = product(*([part.name for part in place] for place in self.parts))
        return tuple(one for one in every if not (self.differ and _clash(*(one[place] for place in self.differ))))

    def value(self, composition: Composition) -> str:
        """The kind of what a composition returns."""
        return self.gives

    def draw(self, random: Drawer, composition: Composition) -> Draft:
        chosen = [next(part for part in place if part.name == name) for place, name in zip(self.parts, composition, strict=True)]
        picked = [part.pick(random) for part in chosen]
        says = _placed(random.choice(self.says), [part.says.replace("*", self.about) for part in picked])
        codes = [filled(part.code, V=self.about) for part in picked]
        if self.inner:
            codes[0] = codes[0].replace("*", _placed(self.inner, codes))
        bodies = tuple(_placed(code, codes) for code in self.code)
        meanings = [part.means for part in picked]
        return Draft(
            family=self.name,
            composition=composition,
            says=says,
            bodies=bodies,
            takes=self.takes,
            means=lambda *arguments: self.means(*meanings, *arguments),
        )


def _clash(one: str, other: str) -> bool:
    """Whether two parts are the same, or conditions that leave nothing to a third branch."""
    return one == other or {one, other} == {"even", "odd"}


def _placed(text: str, parts: list[str]) -> str:
    for place, part in enumerate(parts):
        text = text.replace(f"{{{place}}}", part)
    return text


def first(keeps: Any, made: Any, default: Any, values: list[int]) -> Any:
    return next((made(value) for value in values if keeps(value)), default(None))


def before(stops: Any, values: list[int]) -> list[int]:
    return values[: next((i for i, x in enumerate(values) if stops(x)), len(values))]


FLOWS = (
    Flow(
        name="one or the other",
        says=("{1} if {0} and {2} otherwise",),
        code=("return {1} if {0} else {2}", "if {0}:\n    return {1}\nreturn {2}"),
        means=lambda condition, yes, no, x: yes(x) if condition(x) else no(x),
        takes=("int",),
        parts=(CONDITIONS, RESULTS, RESULTS),
        differ=(1, 2),
    ),
    Flow(
        name="one of three",
        says=("{2} if {0}, otherwise {3} if {1} and {4} if not",),
        code=(
            "if {0}:\n    return {2}\nif {1}:\n    return {3}\nreturn {4}",
            "if {0}:\n    return {2}\nelif {1}:\n    return {3}\nelse:\n    return {4}",
        ),
        means=lambda one, two, yes, then, no, x: yes(x) if one(x) else then(x) if two(x) else no(x),
        takes=("int",),
        parts=(CONDITIONS, CONDITIONS, LABELS[:3], LABELS[3:6], LABELS[6:]),
        differ=(0, 1),
    ),
    Flow(
        name="two conditions",
        says=("whether X is {0} {1} {2}",),
        code=("return {0} {1} {2}",),
        means=lambda one, both, two, x: both(one(x), two(x)),
        takes=("int",),
        parts=(SORTS, BOTH, SIZES),
        gives="bool",
    ),
    Flow(
        name="any or all",
        says=("whether {0} {1}",),
        code=("return {0}({1} for x in X)",),
        means=lambda quantifier, holds, values: quantifier([holds(value) for value in values]),
        takes=("few ints",),
        parts=(QUANTIFIERS, (*ADJECTIVES, SORTS[3], SIZES[4])),
        about="x",
        gives="bool",
    ),
    Flow(
        name="kept by two conditions",
        says=("{0} of the numbers in X that are {1} {2} {3}",),
        code=("return {0}",),
        means=lambda together, one, both, two, values: together([x for x in values if both(one(x), two(x))]),
        takes=("ints",),
        parts=(TOGETHER, SORTS, BOTH, SIZES),
        about="x",
        inner="x for x in X if {1} {2} {3}",
    ),
    Flow(
        name="first",
        says=("{1}the first {0}, or {2} if there is none",),
        code=("for x in X:\n    if {0}:\n        return {1}\nreturn {2}", "return next(({1} for x in X if {0}), {2})"),
        means=first,
        takes=("ints",),
        parts=(NUMBER, MADE, (NONE, number(-1), number(0))),
        about="x",
    ),
    Flow(
        name="last",
        says=("{1}the last {0}, or {2} if there is none",),
        code=(
            "for x in X[::-1]:\n    if {0}:\n        return {1}\nreturn {2}",
            "return next(({1} for x in X[::-1] if {0}), {2})",
        ),
        means=lambda keeps, made, default, values: first(keeps, made, default, values[::-1]),
        takes=("ints",),
        parts=(NUMBER, MADE, (NONE, number(-1), number(0))),
        about="x",
    ),
    Flow(
        name="index of the first",
        says=("the index of the first {0}, or {1} if there is none",),
        code=("for i, x in enumerate(X):\n    if {0}:\n        return i\nreturn {1}",),
        means=lambda keeps, default, values: next((i for i, x in enumerate(values) if keeps(x)), default(None)),
        takes=("ints",),
        parts=(NUMBER, (NONE, number(-1), number(100))),
        about="x",
    ),
    Flow(
        name="indices",
        says=("{0} of the indices of the {1}",),
        code=("return {0}",),
        means=lambda together, keeps, values: together([i for i, x in enumerate(values) if keeps(x)]),
        takes=("ints",),
        parts=((TOGETHER[0], TOGETHER[2], TOGETHER[3]), NUMBERS),
        about="x",
        inner="i for i, x in enumerate(X) if {1}",
    ),
    Flow(
        name="changed where",
        says=("a list of the numbers in X with the {0} ones {1}",),
        code=(
            "return [{1} if {0} else x for x in X]",
            "result = []\nfor x in X:\n    result.append({1} if {0} else x)\nreturn result",
        ),
        means=lambda keeps, changed, values: [changed(x) if keeps(x) else x for x in values],
        takes=("ints",),
        parts=(tuple(part for part in ADJECTIVES if not part.blanks), CHANGES),
        about="x",
        gives="ints",
    ),
    Flow(
        name="before the first",
        says=("{1} of the numbers in X before the first {0}",),
        code=("result = []\nfor x in X:\n    if {0}:\n        break\n    result.append(x)\nreturn {1}",),
        means=lambda stops, together, values: together(before(stops, values)),
        takes=("ints",),
        parts=(ONE, OF_RESULT),
        about="x",
    ),
    Flow(
        name="two lists in step",
        says=("{0} of the {1} of the elements of X and Y in the same places",),
        code=("return {0}",),
        means=lambda together, made, one, two: together([made(a, b) for a, b in zip(one, two, strict=False)]),
        takes=("ints", "ints"),
        parts=(TOGETHER, PAIRED),
        inner="{1} for a, b in zip(X, Y)",
    ),
)
