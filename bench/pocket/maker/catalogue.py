"""All families, and which of their compositions training never sees."""

from collections import Counter
from functools import cache
from hashlib import blake2b

from . import arithmetic, counting, dicts, flow, items, letters, lists, numbers, sequences, strings, texts
from .counting import CLASSIC, CLASSIC_UNSEEN
from .family import PLAIN, Composition, Family
from .single import Single

SINGLES: tuple[Single, ...] = tuple(
    family for module in (numbers, arithmetic, strings, texts, lists, sequences, dicts) for family in module.FAMILIES
)
GRIDS: tuple[Family, ...] = (*counting.WIDE, *letters.GRIDS, *items.GRIDS, *flow.FLOWS)
WIDE: tuple[Family, ...] = (*SINGLES, *GRIDS)
# The language of the first pocket model's tasks: one grid, and single families in their first wordings.
CLASSIC_SINGLES = tuple(family for family in SINGLES if family.classic)
FAMILIES: tuple[Family, ...] = (*WIDE, CLASSIC)
SHARE = 6  # one composition in so many is unseen


def digest(text: str) -> int:
    """A number that stands for a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


@cache
def unseen(family: Family) -> frozenset[Composition]:
    """The compositions of a family that training never sees: about one in six, and none that is a part's only one.

    Those of the first pocket model's grid are its task file's. Families of a kin hold out each other's.
    """
    if family is CLASSIC:
        return CLASSIC_UNSEEN
    if not isinstance(family, Single):
        return _lowest(family)
    kin = [one for one in SINGLES if one.kin and one.kin == family.kin]
    return frozenset().union(*map(_in_turn, kin or [family])).intersection(family.compositions)


def _in_turn(family: Single) -> frozenset[Composition]:
    """Families of one kind of value take turns, so that each outer operation is held out equally often."""
    every = [one for one in family.compositions if one != PLAIN]
    turn = [one.name for one in SINGLES if one.gives == family.gives].index(family.name)
    size = round(len(every) / SHARE)
    return frozenset(every[(turn * size + place) % len(every)] for place in range(size))


def _lowest(family: Family) -> frozenset[Composition]:
    """Those of the lowest digests, as long as every part that they are made of still occurs in another composition."""
    left = Counter(key for one in family.compositions for key in enumerate(one))
    taken: set[Composition] = set()
    for one in sorted(family.compositions, key=lambda one: digest("/".join([family.name, *one]))):
        if len(taken) < round(len(family.compositions) / SHARE) and all(left[key] > 1 for key in enumerate(one)):
            taken.add(one)
            left.subtract(enumerate(one))
    return frozenset(taken)


@cache
def compositions(family: Family, *, seen: bool) -> tuple[Composition, ...]:
    """The compositions of a family that training sees, or those it does not."""
    return tuple(one for one in family.compositions if (one not in unseen(family)) == seen)
