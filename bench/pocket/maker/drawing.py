"""Tasks in any number, from a seed; what evaluations use is kept apart from what is trained on."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from mlx_diffucoder.errors import TaskError

from .catalogue import CLASSIC_SINGLES, GRIDS, SINGLES, WIDE, compositions, digest
from .copying import COPYING
from .counting import CLASSIC
from .family import PLAIN, Composition, Draft, Drawer, Family, Part
from .making import Made, Untestable, make, name
from .single import MORE_OUTER, OUTER, Single, enclosed

# How many tests a task of each split has.
SPLITS = {"train": 5, "valid": 5, "seen": 10, "unseen": 10}
CLASSIC_SHARE = 0.34  # of what is trained on
CLASSIC_GRID_SHARE = 0.75  # of that
GRID_SHARE = 0.3  # of the rest
PLAIN_SHARE = 0.4  # of the tasks of a single family
NESTED_SHARE = 0.5  # of those of the rest that can have one outer operation more
WIDE_SHARE = 0.5  # of the numbers, letters and names in all of them
COPIED_SHARE = 0.1  # of all that is trained on
NO_DEEPER = 0.85  # how often what is nested is left at that
HELD = 50  # one prompt in so many is for `seen`, another for `valid`
KEPT_OUT = Path(__file__).with_name("kept_out.txt")
PATIENCE = 20_000  # draws in a row that gave nothing new


def tasks(
    count: int,
    seed: int,
    split: str,
    *,
    classic: float = CLASSIC_SHARE,
    nested: float = NESTED_SHARE,
    wide: float = WIDE_SHARE,
    copied: float = COPIED_SHARE,
    only_wide: bool = False,
) -> Iterator[Made]:
    """`count` tasks of a split, no prompt twice; the same for the same arguments.

    `train` and `valid` are drawn by weight, `classic` of them in the language of the first pocket model's tasks, and `nested` of
    the others that can be inside another operation are; `wide` of their numbers, letters and names are any, not those that
    evaluations have, and `copied` of them all are those of `copying`;
    `seen` and `unseen` are balanced over families (with `only_wide` without that language). Whatever the seeds, no prompt of
    one split comes out of another.

    Raises:
        TaskError: there is no such split, or not as many tasks.
    """
    if split not in SPLITS:
        raise TaskError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    for what, share in {"classic": classic, "nested": nested, "wide": wide, "copied": copied}.items():
        if not 0 <= share <= 1:
            raise TaskError(f"{what} must be from 0 to 1, not {share}")
    trained = split in ("train", "valid")
    random, known, barren = Drawer(f"{seed} {split}", wide=wide if trained else 0.0), set[int](), 0
    draws = (
        _weighted(random, classic, nested, copied) if trained else _balanced(random, seen=split == "seen", only_wide=only_wide)
    )
    while len(known) < count:
        if barren > PATIENCE:
            raise TaskError(f"only {len(known)} different tasks of split {split} could be made, not {count}")
        draft, is_classic = next(draws)
        named = name(random, draft, classic=is_classic)
        key = digest(named.prompt)
        barren += 1
        if key in known or key in kept_out() or split not in ("unseen", set_of(key)):
            continue
        try:
            made = make(named, seen=split != "unseen", tests=SPLITS[split])
        except Untestable:
            if not (trained and wide):
                raise
            continue  # a number that nothing is above, or the like
        known.add(key)
        barren = 0
        yield made


def set_of(key: int) -> str:
    """The split that the prompt of a seen composition belongs to, by its digest, whatever the seed."""
    return {0: "seen", 1: "valid"}.get(key % HELD, "train")


@cache
def kept_out() -> frozenset[int]:
    """Digests of the prompts of bench/tasks/functions.jsonl, which no split may have."""
    return frozenset(int(line, 16) for line in KEPT_OUT.read_text().split())


def _weighted(random: Drawer, classic: float, nested: float, copied: float) -> Iterator[tuple[Draft, bool]]:
    """Drafts of seen compositions, and whether they are worded as the first pocket model's tasks."""
    grids = (*GRIDS, CLASSIC) if nested else GRIDS
    while True:
        if copied and random.random() < copied:
            yield random.choice(COPYING)(random), False
        elif random.random() < classic:
            if random.random() < CLASSIC_GRID_SHARE:
                yield _draft(random, CLASSIC, seen=True), True
            else:
                yield random.choice(CLASSIC_SINGLES).draw(random, PLAIN, classic=True), True
        else:
            family = random.choice(grids if random.random() < GRID_SHARE else SINGLES)
            draft = _draft(random, family, seen=True)
            yield nest(random, family, draft) if nested and random.random() < nested else draft, False


def nest(random: Drawer, family: Family, draft: Draft) -> Draft:
    """The draft inside one outer operation more, or several: "the square of (twice the length of s)".

    A model that meets every family with its own few operations alone learns each pair by heart; what it cannot learn by heart
    it must put together. An operation that is unseen of the family never stands right around it. Around another one it may:
    never to be met together would be learnt as well.
    """
    kind, bare = family.value(draft.composition), draft.composition == PLAIN
    while outers := _outers(kind, (*draft.composition, *draft.nested), bare=bare and not draft.nested):
        outer = random.choice(outers)
        draft = replace(enclosed(random, draft, kind, outer), nested=(*draft.nested, outer.name))
        kind = outer.gives
        if random.random() < NO_DEEPER:
            break
    return draft


def _outers(kind: str, met: tuple[str, ...], *, bare: bool) -> list[Part]:
    """The operations that can stand around a value, none twice; those that only training has, where it is a family's own."""
    every = (*(() if bare else OUTER.get(kind, ())), *MORE_OUTER.get(kind, ()))
    return [one for one in every if one.name not in met]


def _balanced(random: Drawer, *, seen: bool, only_wide: bool) -> Iterator[tuple[Draft, bool]]:
    families = [family for family in (WIDE if only_wide else (*WIDE, CLASSIC)) if compositions(family, seen=seen)]
    while True:
        random.shuffle(families)
        yield from ((_draft(random, family, seen=seen), family is CLASSIC) for family in families)


def _draft(random: Drawer, family: Family, *, seen: bool) -> Draft:
    return family.draw(random, _composition(random, family, seen=seen))


def _composition(random: Drawer, family: Family, *, seen: bool) -> Composition:
    choices = compositions(family, seen=seen)
    return PLAIN if seen and isinstance(family, Single) and random.random() < PLAIN_SHARE else random.choice(choices)
