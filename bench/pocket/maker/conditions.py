"""What stands in a branch: conditions, what is returned under them, and the words for both."""

from dataclasses import replace
from typing import Any

from .counting import CUBES, DOUBLES, EVEN, FILTERS, NEGATIONS, NEGATIVE, NONZERO, ODD, POSITIVE, SQUARES, above, below, divisible
from .family import Part
from .single import SMALL


def said(part: Part, *says: str) -> Part:
    """A part with other wordings."""
    return replace(part, says=says)


def same_thing(value: Any) -> Any:
    return value


def number(value: int) -> Part:
    """A constant."""
    return Part(name=str(value), says=(str(value),), code=str(value), means=lambda x: value)


NOT_DIVISIBLE = Part(
    name="not divisible",
    says=("* not divisible by N",),
    code="V % N != 0",
    means=lambda x, n: x % n > 0,
    blanks=tuple(range(2, 21)),
)
NOT_EQUAL = Part(
    name="not equal", says=("* not equal to N",), code="V != N", means=lambda x, n: n != x, blanks=tuple(range(3, 21))
)
# Two kinds of adjectives: one of each goes together without one of them being idle.
SORTS = (said(EVEN, "even"), said(ODD, "odd"), said(divisible(), "divisible by N"), said(NOT_DIVISIBLE, "not divisible by N"))
SIZES = (
    said(POSITIVE, "positive"),
    said(NEGATIVE, "negative"),
    said(above(), "greater than N", "above N"),
    said(below(), "less than N", "below N"),
    said(NOT_EQUAL, "not equal to N"),
)
ADJECTIVES = (*SORTS[:3], *SIZES[:4], said(NONZERO, "nonzero", "non-zero"))
CONDITIONS = tuple(said(part, *(f"* is {says}" for says in part.says)) for part in (*SORTS[:3], *SIZES[:4]))
KEPT = FILTERS[1:]
# "first even number in X", "first number in X that is a multiple of 3"
NUMBER = tuple(
    said(part, *(says.replace("*", "number in X").replace("are multiples", "is a multiple") for says in part.says))
    for part in KEPT
)
ONE = tuple(
    said(part, *(says.replace("*", "one").replace("are multiples", "is a multiple") for says in part.says)) for part in KEPT
)
NUMBERS = tuple(said(part, *(says.replace("*", "numbers in X") for says in part.says)) for part in KEPT)

ITSELF = Part(name="itself", says=("*",), code="V", means=same_thing)
NONE = Part(name="none", says=("None",), code="None", means=lambda x: None)
MORE = Part(name="more", says=("N more than *",), code="V + N", means=lambda x, n: x + n, blanks=SMALL)
LESS = Part(name="less", says=("N less than *",), code="V - N", means=lambda x, n: x - n, blanks=SMALL)
RESULTS = (
    ITSELF,
    said(SQUARES, "the square of *"),
    said(CUBES, "the cube of *"),
    said(DOUBLES, "twice *"),
    said(NEGATIONS, "the negation of *"),
    MORE,
    LESS,
    Part(name="number", says=("N",), code="N", means=lambda x, n: n, blanks=(0, 1, 10, 100)),
    NONE,
)
# What is made of a number that was found; the number follows.
MADE = (
    said(ITSELF, ""),
    said(SQUARES, "the square of "),
    said(CUBES, "the cube of "),
    said(DOUBLES, "twice "),
    said(NEGATIONS, "the negation of "),
)
LABELS = tuple(
    Part(name=label, says=(repr(label),), code=repr(label), means=lambda x, label=label: label)
    for label in ("low", "high", "good", "bad", "yes", "no", "big", "tiny", "other")
)
CHANGES = (
    Part(name="zeroed", says=("replaced by 0",), code="0", means=lambda x: 0),
    said(SQUARES, "squared", "replaced by their squares"),
    said(CUBES, "cubed", "replaced by their cubes"),
    said(DOUBLES, "doubled", "replaced by their doubles"),
    said(NEGATIONS, "negated", "replaced by their negations"),
    said(MORE, "increased by N"),
    said(LESS, "decreased by N"),
)
PAIRED = (
    Part(name="sums", says=("sums",), code="a + b", means=lambda a, b: a + b),
    Part(name="products", says=("products",), code="a * b", means=lambda a, b: a * b),
    Part(name="differences", says=("differences",), code="a - b", means=lambda a, b: a - b),
    Part(name="larger", says=("maxima",), code="max(a, b)", means=max),
    Part(name="smaller", says=("minima",), code="min(a, b)", means=min),
    Part(name="distances", says=("absolute differences",), code="abs(a - b)", means=lambda a, b: max(a, b) - min(a, b)),
)
# What is made of many values: `*` is a generator's inside, or the name of a list.
TOGETHER = (
    Part(name="list", says=("a list", "the list"), code="[*]", means=list),
    Part(name="sorted", says=("a sorted list",), code="sorted(*)", means=sorted),
    Part(name="sum", says=("the sum", "the total"), code="sum(*)", means=sum),
    Part(name="set", says=("the set",), code="{*}", means=set),
)
OF_RESULT = (
    Part(name="list", says=("a list", "the list"), code="result", means=list),
    Part(name="sorted", says=("a sorted list",), code="sorted(result)", means=sorted),
    Part(name="sum", says=("the sum", "the total"), code="sum(result)", means=sum),
    Part(name="count", says=("the number", "the count"), code="len(result)", means=len),
)
QUANTIFIERS = (
    Part(name="any", says=("any of the numbers in X is", "at least one of the numbers in X is"), code="any", means=any),
    Part(name="all", says=("all of the numbers in X are", "every one of the numbers in X is"), code="all", means=all),
    Part(name="none", says=("none of the numbers in X is",), code="not any", means=lambda truths: not any(truths)),
)
BOTH = (
    Part(name="and", says=("and",), code="and", means=lambda a, b: a and b),
    Part(name="or", says=("or",), code="or", means=lambda a, b: a or b),
)
