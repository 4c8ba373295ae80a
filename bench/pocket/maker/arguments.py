"""What functions are called with: the kinds of arguments, their names, and a drawer of each."""

import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from random import Random
from typing import Any

from .family import Drawer

LETTERS = "abcdefgiostuxyz"
DICTIONARY = """
a apple at be bird boat book cat city cloud dog door egg fish fox garden go green house ice idea in it jam key lamp level
lion map moon night no noon nose ocean on orange owl paper pear queen radar rain red river salt sea ship sky snow star
stone sun table tea tree up van wall water we wind yes zoo
"""
WORDS = tuple(DICTIONARY.split())


@dataclass(frozen=True)
class Kind:
    """A kind of argument: the names it goes by, and how to draw one."""

    names: tuple[str, ...]
    draw: Callable[[Random], Any]


def integers(random: Random, least: int = 0, most: int = 12) -> list[int]:
    """Numbers of either sign, some of them twice; now and then few enough that a filter leaves nothing."""
    low, high = random.choice([(-30, 40), (-30, 40), (-9, 10), (0, 60)])
    numbers = [random.randint(low, high) for _ in range(random.randint(least, most))]
    if numbers and random.random() < 0.4:
        numbers += random.choices([*numbers, 0], k=random.randint(1, 3))
    return numbers


def few_alike(random: Random) -> list[int]:
    """At least one number, few enough, or alike enough, that all of them may be even, positive, multiples of 7, ..."""
    factor, sign = random.choice([1, 1, 2, 3, random.randint(4, 20)]), random.choice([-1, 1, 1])
    numbers = [sign * factor * random.randint(0, 9) for _ in range(random.randint(1, 5))]
    return [*numbers, random.randint(-30, 40)] if random.random() < 0.3 else numbers


def two_different(random: Random) -> list[int]:
    numbers = integers(random, 2)
    return numbers if len(set(numbers)) > 1 else [*numbers, numbers[0] + random.choice([-3, 5])]


def text(random: Random) -> str:
    """Letters in both cases and spaces, in no language; vowels are in lower case."""
    return "".join(random.choice(LETTERS + LETTERS + "BCDGZ ") for _ in range(random.randint(1, 12)))


def mixed(random: Random) -> str:
    """Letters of both cases, digits and spaces."""
    return "".join(random.choice(LETTERS + LETTERS + "BCDGTXZ" + "0123456789" + "  ") for _ in range(random.randint(0, 14)))


def word(random: Random) -> str:
    """A word in lower case, sometimes one of letters at random, sometimes a palindrome."""
    if random.random() < 0.5:
        return random.choice(WORDS)
    letters = "".join(random.choice("abcdeio") for _ in range(random.randint(1, 6)))
    return letters + letters[::-1] if random.random() < 0.3 else letters


def words(random: Random, least: int = 0, most: int = 8) -> list[str]:
    drawn = [word(random) for _ in range(random.randint(least, most))]
    if drawn and random.random() < 0.4:
        drawn.append(random.choice(drawn))
    return drawn


def sentence(random: Random) -> str:
    return " ".join(words(random, 1, 7))


def table(random: Random) -> dict[str, int]:
    """Words with small numbers, some of them alike."""
    keys = dict.fromkeys(words(random, 0, 7))
    return {key: random.randint(-8, 20) for key in keys}


def one_to_one(random: Random) -> dict[str, int]:
    keys = dict.fromkeys(words(random, 0, 7))
    return dict(zip(keys, random.sample(range(-8, 21), len(keys)), strict=True))


def rows(random: Random) -> list[list[int]]:
    return [[random.randint(-9, 20) for _ in range(random.randint(1, 5))] for _ in range(random.randint(0, 4))]


NUMBER = ("n", "k", "m", "num")
TEXT = ("s", "text", "word", "line")
NUMBERS = ("nums", "numbers", "values", "items", "xs")
STRINGS = ("words", "names", "strings", "texts")
TABLE = ("d", "data", "table", "counts")
ROWS = ("rows", "lists", "groups", "matrix")
# Names that only training uses; none is a variable of a body's own.
WIDE_NAMES = {
    NUMBER: ("number", "size", "y", "z", "p", "q", "amount", "width", "age", "level", "price", "score", "year", "height", "u"),
    TEXT: ("string", "txt", "sentence", "phrase", "message", "title", "letters", "source", "query", "name", "label", "st", "z"),
    NUMBERS: ("lst", "arr", "seq", "data", "list1", "elements", "scores", "prices", "ages", "points", "sizes", "ys", "series"),
    STRINGS: ("lines", "tokens", "labels", "titles", "cities", "parts", "strs", "entries", "phrases", "lst", "arr"),
    TABLE: ("dct", "mapping", "scores", "prices", "stock", "ages", "record", "lookup", "info", "m", "points", "sizes"),
    ROWS: ("grid", "table", "blocks", "lines", "parts", "nested", "cells", "board"),
}

KINDS: dict[str, Kind] = {
    "int": Kind(NUMBER, lambda random: random.randint(-40, 60)),
    "natural": Kind(NUMBER, lambda random: random.choice([random.randint(0, 12), random.randint(0, 200)])),
    "count": Kind(NUMBER, lambda random: random.randint(0, 12)),
    "small": Kind(NUMBER, lambda random: random.choice([random.randint(0, 8), random.randint(8, 30)])),
    "positive": Kind(NUMBER, lambda random: random.choice([random.randint(1, 12), random.randint(1, 99)])),
    "at least two": Kind(NUMBER, lambda random: random.randint(2, 120)),
    "large": Kind(NUMBER, lambda random: random.choice([random.randint(0, 99), random.randint(100, 99999)])),
    "year": Kind(("year", "y", "n", "num"), lambda random: random.choice([1900, 2000, 2100, 2024, random.randint(1800, 2100)])),
    "text": Kind(TEXT, text),
    "mixed": Kind(TEXT, mixed),
    "word": Kind(TEXT, word),
    "sentence": Kind(TEXT, sentence),
    "ints": Kind(NUMBERS, integers),
    "few ints": Kind(NUMBERS, few_alike),
    "some ints": Kind(NUMBERS, lambda random: integers(random, 1)),
    "two ints": Kind(NUMBERS, two_different),
    "words": Kind(STRINGS, words),
    "some words": Kind(STRINGS, lambda random: words(random, 1)),
    "different words": Kind(STRINGS, lambda random: list(dict.fromkeys(words(random)))),
    "celsius": Kind(NUMBER, lambda random: 5 * random.randint(-12, 20)),
    "table": Kind(TABLE, table),
    "long ints": Kind(NUMBERS, lambda random: integers(random, 4)),
    "maybe sorted": Kind(NUMBERS, lambda random: sorted(integers(random)) if random.random() < 0.5 else integers(random)),
    "maybe empty": Kind(NUMBERS, lambda random: integers(random) if random.random() < 0.6 else []),
    "some table": Kind(TABLE, lambda random: table(random) or {"cat": 3}),
    "one to one": Kind(TABLE, one_to_one),
    "rows": Kind(ROWS, rows),
}
# Names for a second argument.
SECOND: dict[str, tuple[str, ...]] = {
    "int": ("b", "limit", "p"),
    "natural": ("b", "limit", "p"),
    "count": ("p", "size", "amount"),
    "positive": ("b", "p", "size"),
    "word": ("other", "t"),
    "text": ("other", "t"),
    "anagram": ("other", "t"),
    "sentence": ("other", "t"),
    "ints": ("others", "ys", "more"),
    "some ints": ("others", "ys", "more"),
    "words": ("others", "more", "keys"),
    "table": ("other", "e", "more"),
    "element": ("n", "k", "target", "value"),
    "key": ("key", "name"),
}


def names(random: Drawer, takes: tuple[str, ...]) -> tuple[str, ...]:
    """Names for a function's arguments, in their order."""
    first = random.choice(_names(random, takes[0], KINDS[takes[0]].names))
    return (first, *(random.choice([name for name in _names(random, kind, SECOND[kind]) if name != first]) for kind in takes[1:]))


def _names(random: Drawer, kind: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    return WIDE_NAMES[KINDS[kind].names] if kind in KINDS and KINDS[kind].names in WIDE_NAMES and random.widely() else usual


def arguments(random: Random, takes: tuple[str, ...], near: Sequence[int] = ()) -> tuple[Any, ...]:
    """One set of arguments, numbers among them often at the edge of a number in `near`.

    An element, a key or an anagram is drawn to suit the first argument about half of the time.
    """
    drawn: list[Any] = [KINDS[takes[0]].draw(random)]
    if near and random.random() < 0.5:
        drawn[0] = _edged(random, takes[0], drawn[0], random.choice(near))
    for kind in takes[1:]:
        drawn.append(_suiting(random, kind, drawn[0]) if kind in SUITING else KINDS[kind].draw(random))
    return tuple(drawn)


def _edged(random: Random, kind: str, drawn: Any, number: int) -> Any:
    edge = random.choice([number - 1, number, number, number + 1, 2 * number, -number])
    if kind in {"int", "natural"}:
        return edge if kind == "int" else abs(edge)
    if kind in {"ints", "some ints", "few ints"}:
        place = random.randint(0, len(drawn))
        return [*drawn[:place], edge, *drawn[place:]]
    return drawn | {random.choice(WORDS): edge} if kind == "table" else drawn


SUITING = {"element", "key", "anagram"}


def _suiting(random: Random, kind: str, first: Any) -> Any:
    suits = len(first) > 0 and random.random() < 0.6
    if kind == "element":
        return random.choice(first) if suits else random.randint(-9, 30)
    if kind == "key":
        return random.choice(list(first)) if suits else random.choice(WORDS)
    shuffled = "".join(random.sample(first, len(first)))
    return shuffled if suits and shuffled != first else word(random)


TEXTS = {"text", "mixed", "word", "sentence"}
NAMED = re.compile(r"\b[XY]\b")


def named(text: str, given: tuple[str, ...]) -> str:
    """The text with X and Y replaced by the arguments' names."""
    return NAMED.sub(lambda match: given["XY".index(match[0])], text)


def copied(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies one level deep, for a reference that may change what it is given."""
    return tuple(copy(value) for value in given)
