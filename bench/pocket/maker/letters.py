"""Grids over words and characters."""

from .family import Part
from .grid import COUNTED, DISTINCT, EVERY, LIST, MAX, MIN, SORTED, STRING, SUM, Grid, joins, same

CHARACTERS = tuple("abcdegiort")
LENGTHS = tuple(range(2, 7))
LONGER = Part(
    name="longer",
    says=("* longer than N", "* with more than N letters"),
    code="len(V) > N",
    means=lambda w, n: len(w) > n,
    blanks=LENGTHS,
)
SHORTER = Part(
    name="shorter",
    says=("* shorter than N", "* with fewer than N letters"),
    code="len(V) < N",
    means=lambda w, n: len(w) < n,
    blanks=LENGTHS,
)
EXACTLY = Part(
    name="exactly",
    says=("* of length N", "* with exactly N letters"),
    code="len(V) == N",
    means=lambda w, n: len(w) == n,
    blanks=LENGTHS,
)
STARTING = Part(
    name="starting",
    says=("* that start with C", "* that begin with C"),
    code="V.startswith(C)",
    means=lambda w, c: w[0] == c,
    blanks=CHARACTERS,
)
ENDING = Part(
    name="ending",
    says=("* that end with C", "* ending in C"),
    code="V.endswith(C)",
    means=lambda w, c: w[-1] == c,
    blanks=CHARACTERS,
)
CONTAINING = Part(
    name="containing",
    says=("* that contain C", "* containing C"),
    code="C in V",
    means=lambda w, c: w.count(c) > 0,
    blanks=CHARACTERS,
)
LACKING = Part(
    name="lacking",
    says=("* without C", "* that do not contain C"),
    code="C not in V",
    means=lambda w, c: w.count(c) == 0,
    blanks=CHARACTERS,
)
PALINDROMES = Part(
    name="palindromes", says=("* that are palindromes",), code="V == V[::-1]", means=lambda w: list(w) == list(reversed(w))
)
WORD_FILTERS = (EVERY, LONGER, SHORTER, EXACTLY, STARTING, ENDING, CONTAINING, LACKING, PALINDROMES)

UPPER = Part(name="upper", says=("the upper case forms of the *",), code="V.upper()", means=str.upper, gives="str")
CAPITALIZED = Part(
    name="capitalized",
    says=("the capitalized forms of the *",),
    code="V.capitalize()",
    means=lambda w: w[0].upper() + w[1:],
    gives="str",
)
REVERSES = Part(
    name="reverses", says=("the reverses of the *",), code="V[::-1]", means=lambda w: "".join(reversed(w)), gives="str"
)
WORD_LENGTHS = Part(name="lengths", says=("the lengths of the *",), code="len(V)", means=len)
INITIALS = Part(name="initials", says=("the first letters of the *",), code="V[0]", means=lambda w: w[:1], gives="str")
FINALS = Part(name="finals", says=("the last letters of the *",), code="V[-1]", means=lambda w: w[len(w) - 1], gives="str")
WORD_MAPS = (same(gives="str"), UPPER, CAPITALIZED, REVERSES, WORD_LENGTHS, INITIALS, FINALS)
WORD_AGGREGATES = (LIST, SORTED, COUNTED, SUM, MAX, MIN, DISTINCT, *map(joins, ("-", ", ", " ", "+")))

VOWELS = Part(name="vowels", says=("vowels in *",), code="V in 'aeiou'", means=lambda c: c in set("aeiou"))
NOT_VOWELS = Part(
    name="not vowels",
    says=("characters other than vowels in *", "characters in * that are not vowels"),
    code="V not in 'aeiou'",
    means=lambda c: c not in set("aeiou"),
)
DIGITS = Part(name="digits", says=("digits in *",), code="V.isdigit()", means=lambda c: "0" <= c <= "9")
LETTERS = Part(name="letters", says=("letters in *",), code="V.isalpha()", means=lambda c: "a" <= c.lower() <= "z")
CAPITALS = Part(
    name="capitals", says=("upper case letters in *", "capital letters in *"), code="V.isupper()", means=lambda c: "A" <= c <= "Z"
)
SMALL = Part(name="small", says=("lower case letters in *",), code="V.islower()", means=lambda c: "a" <= c <= "z")
NOT_SPACES = Part(
    name="not spaces",
    says=("characters other than spaces in *", "characters in * that are not spaces"),
    code="V != ' '",
    means=lambda c: c not in " ",
)
NOT = Part(
    name="not",
    says=("characters other than C in *", "characters in * that are not C"),
    code="V != C",
    means=lambda c, d: c not in d,
    blanks=CHARACTERS,
)
EVERY_CHARACTER = Part(name="all", says=("characters of *",), code="", means=lambda c: True)
CHARACTER_MAPS = (
    same(gives="str"),
    Part(name="upper", says=("the upper case forms of the *",), code="V.upper()", means=str.upper, gives="str"),
    Part(name="lower", says=("the lower case forms of the *",), code="V.lower()", means=str.lower, gives="str"),
    Part(name="doubled", says=("the *, each repeated twice",), code="V * 2", means=lambda c: c + c, gives="str"),
    Part(name="codes", says=("the character codes of the *",), code="ord(V)", means=ord),
)

GRIDS = (
    Grid(
        name="words in a list",
        says=("words in X", "strings in X"),
        over="X",
        elements=lambda words: words,
        takes="words",
        filters=WORD_FILTERS,
        maps=WORD_MAPS,
        aggregates=WORD_AGGREGATES,
        var="w",
    ),
    Grid(
        name="words of a text",
        says=("words of X",),
        over="X.split()",
        elements=lambda text: text.split(" "),
        takes="sentence",
        filters=WORD_FILTERS,
        maps=WORD_MAPS,
        aggregates=WORD_AGGREGATES,
        var="w",
    ),
    Grid(
        name="characters",
        says=("X",),
        over="X",
        elements=lambda text: text,
        takes="mixed",
        filters=(EVERY_CHARACTER, VOWELS, NOT_VOWELS, DIGITS, LETTERS, CAPITALS, SMALL, NOT_SPACES, NOT),
        maps=CHARACTER_MAPS,
        aggregates=(LIST, SORTED, COUNTED, DISTINCT, STRING, joins("-"), joins(" "), joins(","), SUM, MAX, MIN),
        var="c",
    ),
)
