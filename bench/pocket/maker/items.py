"""Grids over the items of dictionaries: keys by their values, values by their keys, and dictionaries of both."""

from .counting import CUBES, DOUBLES, EVEN, NEGATIONS, NEGATIVE, ODD, POSITIVE, SQUARES, above, below, divisible
from .family import Part
from .grid import COUNTED, EVERY, LIST, MAX, MIN, SORTED, SUM, Aggregate, Grid, joins, of
from .letters import CONTAINING, ENDING, LACKING, LENGTHS, LONGER, REVERSES, SHORTER, STARTING, UPPER, WORD_LENGTHS

BY_VALUE = tuple(
    of(part, 1, tuple(f"* whose value is {said}" for said in says))
    for part, says in {
        EVEN: ("even",),
        ODD: ("odd",),
        POSITIVE: ("positive",),
        NEGATIVE: ("negative",),
        above(LENGTHS): ("greater than N", "above N"),
        below(LENGTHS): ("less than N", "below N"),
        divisible(LENGTHS[1:]): ("divisible by N", "a multiple of N"),
    }.items()
)
OF_KEYS = {
    STARTING: ("starts with C",),
    ENDING: ("ends with C",),
    CONTAINING: ("contains C",),
    LACKING: ("does not contain C",),
    LONGER: ("is longer than N",),
    SHORTER: ("is shorter than N",),
}
BY_KEY = tuple(of(part, 0, tuple(f"* whose key {said}" for said in says)) for part, says in OF_KEYS.items())

DICT = Aggregate(
    name="dict",
    says=("a dict of E",),
    code="{E}",
    start="result = {}",
    step="result[K] = E",
    end="result",
    means=dict,
    kinds=frozenset({"item"}),
)


def _values(name: str, says: str, part: Part | None) -> Part:
    """The map that makes something of an item's value."""
    code = part.code if part else "V"
    made = part.means if part else lambda value: value
    return Part(
        name=name,
        says=(f"the *{says}",),
        code=f"k: {code.replace('V', 'v')}",
        means=lambda item: (item[0], made(item[1])),
        gives="item",
    )


KEYS = Part(name="same", says=("the *",), code="k", means=lambda item: item[0], gives="str")
VALUES = Part(name="same", says=("the *",), code="v", means=lambda item: item[1])
ITEMS = (
    _values("same", "", None),
    _values("doubled", ", with each value doubled", DOUBLES),
    _values("squared", ", with each value squared", SQUARES),
    _values("negated", ", with each value negated", NEGATIONS),
    Part(
        name="upper",
        says=("the *, with each key in upper case",),
        code="k.upper(): v",
        means=lambda item: (item[0].upper(), item[1]),
        gives="item",
    ),
)
GRIDS = (
    Grid(
        name="keys whose value",
        says=("keys of X",),
        over="X.items()",
        elements=dict.items,
        takes="table",
        filters=BY_VALUE,
        maps=(KEYS, *(of(part, 0, part.says) for part in (UPPER, REVERSES, WORD_LENGTHS))),
        aggregates=(LIST, SORTED, COUNTED, joins("-"), joins(", "), joins(" "), SUM),
        var="k, v",
    ),
    Grid(
        name="values whose key",
        says=("values of X",),
        over="X.items()",
        elements=dict.items,
        takes="table",
        filters=BY_KEY,
        maps=(VALUES, *(of(part, 1, part.says) for part in (SQUARES, CUBES, DOUBLES, NEGATIONS))),
        aggregates=(LIST, SORTED, SUM, COUNTED, MAX, MIN),
        var="k, v",
    ),
    Grid(
        name="items of a dict",
        says=("items of X",),
        over="X.items()",
        elements=dict.items,
        takes="table",
        filters=(EVERY, *BY_VALUE, *BY_KEY),
        maps=ITEMS,
        aggregates=(DICT,),
        var="k, v",
        left_out=frozenset({("dict", "same", "all")}),
    ),
)
