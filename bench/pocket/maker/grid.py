"""Families whose compositions are all the combinations of a filter, a map and a way to put together what they leave."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .family import Composition, Draft, Drawer, Part, filled


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """How the values that a filter and a map leave are put together.

    Attributes:
        says: wordings; E is the values.
        code: the expression over them: E is a generator's inside, as in `sum(E)`.
        start, step, end: the same by a loop: before it, for each value E, and after it.
        kinds: the kinds of values it takes.
        bare: whether it takes elements only as they are: who counts them has no use for a map.
    """

    name: str
    says: tuple[str, ...]
    code: str
    start: str
    step: str
    end: str
    means: Callable[[list[Any]], Any]
    kinds: frozenset[str] = frozenset({"int"})
    bare: bool = False


ANY = frozenset({"int", "str"})
INT = frozenset({"int"})


def listed(
    name: str, says: tuple[str, ...], code: str, end: str, means: Callable[[list[Any]], Any], kinds: frozenset[str]
) -> Aggregate:
    """Values put together from the list of them."""
    return Aggregate(
        name=name, says=says, code=code, start="result = []", step="result.append(E)", end=end, means=means, kinds=kinds
    )


LIST = listed("list", ("a list of E", "the list of E"), "[E]", "result", list, ANY)
SORTED = listed("sorted", ("a sorted list of E",), "sorted(E)", "sorted(result)", sorted, ANY)
COUNT = Aggregate(
    name="count",
    says=("the number of E", "the count of E"),
    code="len([E])",
    start="total = 0",
    step="total += 1",
    end="total",
    means=len,
    kinds=ANY,
)
COUNTED = replace(COUNT, bare=True)
SUM = Aggregate(
    name="sum",
    says=("the sum of E", "the total of E"),
    code="sum(E)",
    start="total = 0",
    step="total += E",
    end="total",
    means=sum,
)
MAX = listed(
    "max",
    ("the largest of E", "the maximum of E"),
    "max([E], default=None)",
    "max(result, default=None)",
    lambda values: max(values, default=None),
    INT,
)
MIN = listed(
    "min",
    ("the smallest of E", "the minimum of E"),
    "min([E], default=None)",
    "min(result, default=None)",
    lambda values: min(values, default=None),
    INT,
)
DISTINCT = Aggregate(
    name="distinct",
    says=("the number of distinct values among E", "the number of different values among E"),
    code="len({E})",
    start="found = set()",
    step="found.add(E)",
    end="len(found)",
    means=lambda values: len(dict.fromkeys(values)),
    kinds=ANY,
)
PRODUCT = Aggregate(
    name="product",
    says=("the product of E",),
    code="",
    start="result = 1",
    step="result *= E",
    end="result",
    means=lambda values: _product(values),
)


def _product(values: Iterable[int]) -> int:
    product = 1
    for value in values:
        product *= value
    return product


def joins(mark: str) -> Aggregate:
    """Texts joined by a mark."""
    return Aggregate(
        name=f"joined by {mark!r}",
        says=(f"E, joined with {mark!r}", f"a string of E, joined with {mark!r}"),
        code=f"{mark!r}.join(E)",
        start="result = []",
        step="result.append(E)",
        end=f"{mark!r}.join(result)",
        means=mark.join,
        kinds=frozenset({"str"}),
    )


STRING = Aggregate(
    name="string",
    says=("a string of E", "the string of E"),
    code="''.join(E)",
    start="result = ''",
    step="result += E",
    end="result",
    means="".join,
    kinds=frozenset({"str"}),
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All that can be said of the elements of something: `the sum of the squares of the even numbers in nums`.

    Attributes:
        says: what the elements are called; what filters qualify.
        over: what a loop runs over.
        var: the variable of that loop; V in the parts.
        elements: what the loop runs over, in Python.
        filters, maps, aggregates: the parts; `all` and `same` do nothing.
        left_out: combinations that no one would ask for.
    """

    name: str
    says: tuple[str, ...]
    over: str
    elements: Callable[[Any], Iterable[Any]]
    takes: str
    filters: Sequence[Part]
    maps: Sequence[Part]
    aggregates: Sequence[Aggregate]
    var: str = "x"
    left_out: frozenset[Composition] = frozenset({("list", "same", "all"), ("count", "same", "all")})

    @cached_property
    def compositions(self) -> tuple[Composition, ...]:
        every = (
            (aggregate.name, mapped.name, kept.name)
            for aggregate in self.aggregates
            for mapped in self.maps
            for kept in self.filters
            if mapped.gives in aggregate.kinds and (mapped.name == "same" or not aggregate.bare)
        )
        return tuple(one for one in every if one not in self.left_out)

    def draw(self, random: Drawer, composition: Composition) -> Draft:
        aggregate = next(one for one in self.aggregates if one.name == composition[0])
        mapped = next(one for one in self.maps if one.name == composition[1]).pick(random)
        kept = next(one for one in self.filters if one.name == composition[2]).pick(random)
        noun = kept.says.replace("*", random.choice(self.says))
        says = filled(random.choice(aggregate.says), E=mapped.says.replace("*", noun))
        ways = (self._expression, self._loop) if aggregate.code else (self._loop,)
        bodies = tuple(filled(way(aggregate, mapped.code, kept.code), V=self.var) for way in ways)

        def means(argument: Any) -> Any:
            return aggregate.means([mapped.means(value) for value in self.elements(argument) if kept.means(value)])

        return Draft(family=self.name, composition=composition, says=says, bodies=bodies, takes=(self.takes,), means=means)

    def value(self, composition: Composition) -> str:
        """The kind of what a composition returns; nothing where that may be None, or is a dict."""
        made = next(one for one in self.maps if one.name == composition[1]).gives
        kinds = {"sum": "int", "count": "int", "distinct": "int", "product": "int", "string": "str"}
        kinds |= dict.fromkeys(("list", "sorted"), "words" if made == "str" else "ints")
        return "str" if composition[0].startswith("joined by") else kinds.get(composition[0], "")

    def _expression(self, aggregate: Aggregate, value: str, condition: str) -> str:
        inner = f"{value} for {self.var} in {self.over}" + (f" if {condition}" if condition else "")
        return f"return {filled(aggregate.code, E=inner)}"

    def _loop(self, aggregate: Aggregate, value: str, condition: str) -> str:
        key, _, item = value.rpartition(": ")
        step = filled(aggregate.step, K=key, E=item)
        lines = [aggregate.start, f"for {self.var} in {self.over}:"]
        lines += [f"    if {condition}:", f"        {step}"] if condition else [f"    {step}"]
        return "\n".join([*lines, f"return {aggregate.end}"])


def same(says: str = "the *", code: str = "V", gives: str = "int") -> Part:
    """The map that changes nothing."""
    return Part(name="same", says=(says,), code=code, means=lambda value: value, gives=gives)


EVERY = Part(name="all", says=("*",), code="", means=lambda value: True)
CONSTANTS = tuple(range(2, 21))


def of(part: Part, side: int, says: tuple[str, ...]) -> Part:
    """A part for the key (0) or the value (1) of an item, with other wordings."""
    return Part(
        name=part.name,
        says=says,
        code=filled(part.code, V="kv"[side]),
        means=lambda pair, *blank: part.means(pair[side], *blank),
        blanks=part.blanks,
        gives=part.gives,
    )
