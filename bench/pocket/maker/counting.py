"""Grids over numbers: those in a list, from 1 to n, the digits of one, the values of a dict, the lengths of words.

The first is the language of the first pocket model's tasks, word for word.
"""

import re
from dataclasses import replace

from .family import Composition, Part
from .grid import CONSTANTS, COUNT, COUNTED, DISTINCT, EVERY, LIST, MAX, MIN, PRODUCT, SORTED, SUM, Grid, same

EVEN = Part(name="even", says=("even *",), code="V % 2 == 0", means=lambda x: x % 2 == 0)
ODD = Part(name="odd", says=("odd *",), code="V % 2 == 1", means=lambda x: x % 2 == 1)
POSITIVE = Part(name="positive", says=("positive *",), code="V > 0", means=lambda x: x > 0)
NEGATIVE = Part(name="negative", says=("negative *",), code="V < 0", means=lambda x: x < 0)
NONZERO = Part(name="nonzero", says=("nonzero *", "non-zero *"), code="V != 0", means=lambda x: x != 0)


def above(blanks: tuple[int, ...] = CONSTANTS) -> Part:
    says = ("* greater than N", "* bigger than N", "* above N")
    return Part(name="above", says=says, code="V > N", means=lambda x, n: x > n, blanks=blanks)


def below(blanks: tuple[int, ...] = CONSTANTS) -> Part:
    says = ("* less than N", "* smaller than N", "* below N")
    return Part(name="below", says=says, code="V < N", means=lambda x, n: x < n, blanks=blanks)


def divisible(blanks: tuple[int, ...] = CONSTANTS[1:]) -> Part:
    says = ("* divisible by N", "* that are multiples of N")
    return Part(name="divisible", says=says, code="V % N == 0", means=lambda x, n: x % n == 0, blanks=blanks)


SQUARES = Part(name="squares", says=("the squares of the *",), code="V * V", means=lambda x: x**2)
CUBES = Part(name="cubes", says=("the cubes of the *",), code="V ** 3", means=lambda x: x * x * x)
DOUBLES = Part(name="doubles", says=("the doubles of the *", "twice the *"), code="V * 2", means=lambda x: x + x)
NEGATIONS = Part(name="negations", says=("the negations of the *",), code="-V", means=lambda x: 0 - x)
ABSOLUTE = Part(name="absolute values", says=("the absolute values of the *",), code="abs(V)", means=lambda x: max(x, -x))
HALVES = Part(name="halves", says=("the halves, rounded down, of the *",), code="V // 2", means=lambda x: (x - x % 2) // 2)
REMAINDERS = Part(
    name="remainders",
    says=("the remainders modulo N of the *",),
    code="V % N",
    means=lambda x, n: x % n,
    blanks=tuple(range(2, 10)),
)
TEXTS = Part(name="texts", says=("the strings of the *",), code="str(V)", means=str, gives="str")


def clear(part: Part) -> Part:
    """The part worded so that it cannot be taken to speak of the end of what it follows: "integers from 1 to n above 4"."""
    return replace(part, says=tuple(re.sub(r"^\* (?!that)", "* that are ", says) for says in part.says))


FILTERS = (EVERY, EVEN, ODD, POSITIVE, NEGATIVE, NONZERO, above(), below(), divisible())
CLASSIC_FILTERS = (*FILTERS[:-1], divisible(CONSTANTS))  # there "divisible by 2" stands beside "even"
MAPS = (same(), SQUARES, CUBES, DOUBLES, NEGATIONS, ABSOLUTE)
CLASSIC = Grid(
    name="numbers in a list",
    says=("numbers in X",),
    over="X",
    elements=lambda numbers: numbers,
    takes="ints",
    filters=CLASSIC_FILTERS,
    maps=MAPS,
    aggregates=(LIST, SORTED, SUM, COUNT, MAX, MIN),
    left_out=frozenset({("list", "same", "all")}),
)
# The compositions that the first pocket model never saw: those its task file marks so.
CLASSIC_UNSEEN: frozenset[Composition] = frozenset(
    (aggregate, mapped, kept)
    for aggregate, maps in {
        "list": {
            "same": "even odd",
            "squares": "divisible positive",
            "doubles": "above nonzero",
            "negations": "negative",
            "absolute values": "divisible",
        },
        "sorted": {"same": "all below", "cubes": "above", "negations": "divisible positive"},
        "sum": {"same": "divisible positive", "cubes": "odd", "doubles": "all below", "negations": "above nonzero"},
        "count": {"cubes": "divisible positive", "negations": "all below", "absolute values": "negative"},
        "max": {
            "same": "above nonzero",
            "squares": "all below",
            "cubes": "negative",
            "doubles": "divisible",
            "negations": "odd",
            "absolute values": "all",
        },
        "min": {"same": "negative", "squares": "above nonzero", "doubles": "odd", "absolute values": "above nonzero"},
    }.items()
    for mapped, filters in maps.items()
    for kept in filters.split()
)
FEW, SOME = tuple(range(2, 9)), tuple(range(3, 7))
WIDE = (
    Grid(
        name="more of the numbers in a list",
        says=("numbers in X",),
        over="X",
        elements=lambda numbers: numbers,
        takes="ints",
        filters=FILTERS,
        maps=(*MAPS, HALVES, REMAINDERS),
        aggregates=(DISTINCT, PRODUCT),
    ),
    Grid(
        name="halves and remainders",
        says=("numbers in X",),
        over="X",
        elements=lambda numbers: numbers,
        takes="ints",
        filters=FILTERS,
        maps=(HALVES, REMAINDERS),
        aggregates=(LIST, SORTED, SUM, MAX, MIN),
    ),
    Grid(
        name="integers up to",
        says=("integers from 1 to X",),
        over="range(1, X + 1)",
        elements=lambda n: range(1, n + 1),
        takes="small",
        filters=(EVERY, EVEN, ODD, clear(above()), clear(below()), clear(divisible())),
        maps=(same(), SQUARES, CUBES, DOUBLES, NEGATIONS, REMAINDERS),
        aggregates=(LIST, SUM, COUNTED, MAX, MIN, PRODUCT),
        var="i",
        left_out=frozenset({("count", "same", "all")}),
    ),
    Grid(
        name="digits",
        says=("digits of X",),
        over="map(int, str(X))",
        elements=lambda n: map(int, str(n)),
        takes="large",
        filters=(EVERY, EVEN, ODD, NONZERO, clear(above(FEW)), clear(below(FEW))),
        maps=(same(), SQUARES, CUBES, DOUBLES),
        aggregates=(LIST, SORTED, SUM, COUNTED, MAX, MIN, DISTINCT),
        var="d",
        left_out=frozenset({("count", "same", "all"), ("list", "same", "all"), ("sum", "same", "all")}),
    ),
    Grid(
        name="values of a dict",
        says=("values of X",),
        over="X.values()",
        elements=lambda table: table.values(),
        takes="table",
        filters=(EVERY, EVEN, ODD, POSITIVE, NEGATIVE, NONZERO, clear(above(FEW)), clear(below(FEW)), clear(divisible(SOME))),
        maps=(same(), SQUARES, CUBES, DOUBLES, NEGATIONS, ABSOLUTE),
        aggregates=(LIST, SORTED, SUM, COUNTED, MAX, MIN, DISTINCT),
        var="v",
        left_out=frozenset({("count", "same", "all"), ("sum", "same", "all"), ("sorted", "same", "all")}),
    ),
    Grid(
        name="lengths of words",
        says=("lengths of the words in X",),
        over="map(len, X)",
        elements=lambda words: map(len, words),
        takes="words",
        filters=(EVERY, EVEN, ODD, clear(above(SOME)), clear(below(SOME)), clear(divisible(SOME))),
        maps=(same(), SQUARES, DOUBLES, NEGATIONS),
        aggregates=(LIST, SORTED, SUM, COUNTED, MAX, MIN, DISTINCT),
        var="n",
        left_out=frozenset({("count", "same", "all")}),
    ),
)
