"""Tasks that only training has: mostly numbers and letters, several in each, that stand in the answer as in the instruction.

What a task has one of can be told by looking for a digit anywhere. To copy the second of three, and to end a number where it
ends, each digit must be told from its neighbours.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from string import ascii_lowercase

from .family import PLAIN, Draft, Drawer, grouped

Numbers = tuple[int, ...]
STEPS: tuple[tuple[str, str, Callable[[int, int], int]], ...] = (
    ("plus", "+", lambda value, number: value + number),
    ("minus", "-", lambda value, number: value - number),
    ("times", "*", lambda value, number: value * number),
    ("modulo", "%", lambda value, number: value % number),
)


def number(random: Drawer) -> int:
    """Of one digit as often as of more."""
    return random.randint(2, 9) if random.random() < 0.5 else random.randint(10, 99 if random.random() < 0.8 else 999)


def numbers(random: Drawer, least: int = 2, most: int = 4) -> Numbers:
    """Different ones, in any order."""
    wanted, found = random.randint(least, most), dict[int, None]()
    while len(found) < wanted:
        found[number(random)] = None
    return tuple(found)


def spoken(parts: Sequence[object], word: str) -> str:
    """`3, 14 and 5`."""
    return f" {word} ".join([", ".join(map(str, parts[:-1])), str(parts[-1])])


def appended(random: Drawer) -> Draft:
    given = numbers(random)
    return _draft(
        "numbers appended",
        f"the elements of X followed by {spoken(given, 'and')}",
        (f"return X + {list(given)}",),
        "ints",
        lambda values: [*values, *given],
    )


def one_of(random: Drawer) -> Draft:
    given = numbers(random)
    return _draft(
        "one of some numbers",
        f"whether X is {spoken(given, 'or')}",
        (f"return X in {given}", "return " + " or ".join(f"X == {one}" for one in given)),
        "int",
        lambda value: value in given,
    )


def steps(random: Drawer) -> Draft:
    """Arithmetic from left to right, whatever binds tighter."""
    taken = [(*random.choice(STEPS), one) for one in numbers(random, 1, 3)]
    code = reduce(lambda inner, step: f"{grouped(inner)} {step[1]} {step[3]}", taken, "X")
    return _draft(
        "arithmetic in steps",
        "X " + ", ".join(f"{word} {one}" for word, _, _, one in taken),
        (f"return {code}",),
        "int",
        lambda value: reduce(lambda found, step: step[2](found, step[3]), taken, value),
    )


def chosen(random: Drawer) -> Draft:
    high, low, above, below, rest = numbers(random, 5, 5)
    return _draft(
        "numbers chosen",
        f"{above} if X is above {high}, {below} if X is below {low} and {rest} otherwise",
        (
            f"if X > {high}:\n    return {above}\nif X < {low}:\n    return {below}\nreturn {rest}",
            f"return {above} if X > {high} else {below} if X < {low} else {rest}",
        ),
        "int",
        lambda value: above if value > high else below if value < low else rest,
    )


def sliced(random: Drawer) -> Draft:
    first, last = sorted(numbers(random, 2, 2))
    kind = random.choice(["ints", "word"])
    return _draft(
        "slice",
        f"X from index {first} to {last}, without the last",
        (f"return X[{first}:{last}]",),
        kind,
        lambda v: v[first:last],
    )


def counted(random: Drawer) -> Draft:
    letters = tuple(random.sample(ascii_lowercase, random.randint(1, 3)))
    quoted = [repr(letter) for letter in letters]
    return _draft(
        "letters counted",
        f"how many characters of X are {spoken(quoted, 'or') if len(quoted) > 1 else quoted[0]}",
        ("return " + " + ".join(f"X.count({one})" for one in quoted),),
        "word",
        lambda text: sum(text.count(letter) for letter in letters),
    )


COPYING: tuple[Callable[[Drawer], Draft], ...] = (appended, one_of, steps, chosen, sliced, counted)


def _draft(family: str, says: str, bodies: tuple[str, ...], takes: str, means: Callable[..., object]) -> Draft:
    return Draft(family=family, composition=PLAIN, says=says, bodies=bodies, takes=(takes,), means=means)
