"""Tasks from families: names chosen, code run on its own tests, compositions and prompts of evaluations kept apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from ...errors import TaskError
from . import arguments, counting, dicts, flow, items, letters, lists, numbers, strings
from .family import PLAIN, Composition, Draft, Family
from .single import Single

SPLITS = ("train", "valid", "seen", "unseen")
SINGLES: tuple[Single, ...] = (*numbers.FAMILIES, *strings.FAMILIES, *lists.FAMILIES, *dicts.FAMILIES)
GRIDS: tuple[Family, ...] = (*counting.WIDE, *letters.GRIDS, *items.GRIDS, *flow.FLOWS)
WIDE: tuple[Family, ...] = (*SINGLES, *GRIDS)
# The language of the first pocket model's tasks: one grid, and single families in their first wording.
CLASSIC_SINGLES = tuple(family for family in SINGLES if family.classic)
CLASSIC_SHARE = 0.38
GRID_SHARE = 0.75  # of the classic tasks
HELD = 50  # one prompt in so many is never trained on, and as many again are for validation
TESTS = 5
KEPT_OUT = Path(__file__).with_name("kept_out.txt")

NAMES = ("f", "func", "run", "solve", "compute", "calc", "process", "answer")
TEXT_NAMES = (*NAMES, "convert", "transform")
WIDE_NAMES = (*TEXT_NAMES, "find", "get", "make", "build")
CLASSIC_FORMS = (
    "Write a function {} that returns {}.",
    "Write a Python function named {} that returns {}.",
    "Implement {}: return {}.",
    "Define {} so that it returns {}.",
    "I need a function called {}. It should return {}.",
)
FORMS = (*CLASSIC_FORMS, "Create a function {} that returns {}.", "Write {}, a function that returns {}.")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A task: what is asked, the code that answers it, and tests that it passes."""

    family: str
    composition: Composition
    prompt: str
    entry_point: str
    solution: str
    test: str
    split: str

    def row(self, number: int) -> dict[str, str]:
        """The task in HumanEval's field names; `completion` is what a model should answer."""
        return {
            "task_id": f"{self.split}/{number}",
            "family": self.family,
            "split": "unseen" if self.split == "unseen" else "seen",
            "prompt": self.prompt,
            "entry_point": self.entry_point,
            "canonical_solution": self.solution,
            "completion": self.solution,
            "test": self.test,
        }


def digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


@cache
def kept_out() -> frozenset[int]:
    """Digests of prompts that no training row may have: those of bench/tasks/functions.jsonl."""
    return frozenset(int(line, 16) for line in KEPT_OUT.read_text().split())


def set_of(prompt: str) -> str:
    """Which set a prompt of a seen composition belongs to, whatever the seed."""
    place = digest(prompt)
    if place in kept_out():
        return "kept out"
    return {0: "seen", 1: "valid"}.get(place % HELD, "train")


@cache
def unseen(family: Family) -> frozenset[Composition]:
    """The compositions of a family that training never sees: about one in six, never all that hold a part.

    Those of the classic grid are its task file's. Of the others, the ones with the lowest digests are taken as long
    as every part they are made of still occurs in at least two seen compositions.
    """
    if family is counting.CLASSIC:
        return counting.CLASSIC_UNSEEN
    every = [one for one in family.compositions if one != PLAIN]
    left = {(place, part): 0 for one in every for place, part in enumerate(one)}
    for one in every:
        for key in enumerate(one):
            left[key] += 1
    taken: set[Composition] = set()
    for one in sorted(every, key=lambda one: digest("/".join([family.name, *one]))):
        if len(taken) >= max(1, len(every) // 6):
            break
        if len(one) == 1 or all(left[key] > 2 for key in enumerate(one)):
            taken.add(one)
            for key in enumerate(one):
                left[key] -= 1
    return frozenset(taken) if len(every) > 1 else frozenset()


@cache
def compositions(family: Family, split: str) -> tuple[Composition, ...]:
    """The compositions of a family that a split draws from."""
    return tuple(one for one in family.compositions if (one in unseen(family)) == (split == "unseen"))


def tasks(count: int, seed: int, split: str, *, only_wide: bool = False) -> Iterator[Made]:
    """`count` tasks of a split, none twice; the same for the same arguments.

    `train` and `valid` are drawn by weight, `seen` and `unseen` balanced over families. No prompt of one
    split comes out of another, whatever the seeds.

    Raises:
        TaskError: a split of another name, or fewer tasks than that can be made.
    """
    if split not in SPLITS:
        raise TaskError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    random = Random(f"{seed} {split}")
    draws = _balanced(random, split, only_wide) if split in ("seen", "unseen") else _weighted(random)
    known: set[int] = set()
    barren = 0
    while len(known) < count:
        family, classic = next(draws)
        task = make(random, family, split, classic=classic)
        key = digest(task.prompt)
        if (split != "unseen" and set_of(task.prompt) != split) or key in known or key in kept_out():
            barren += 1
            if barren > 20_000:
                raise TaskError(f"only {len(known)} different tasks of split {split} could be made, not {count}")
            continue
        barren = 0
        known.add(key)
        check(task)
        yield task


def _balanced(random: Random, split: str, only_wide: bool) -> Iterator[tuple[Family, bool]]:
    families = [family for family in (*WIDE, *(() if only_wide else (counting.CLASSIC,))) if compositions(family, split)]
    while True:
        random.shuffle(families)
        yield from ((family, family is counting.CLASSIC) for family in families)


def _weighted(random: Random) -> Iterator[tuple[Family, bool]]:
    while True:
        if random.random() < CLASSIC_SHARE:
            yield (counting.CLASSIC if random.random() < GRID_SHARE else random.choice(CLASSIC_SINGLES)), True
        else:
            yield (random.choice(GRIDS) if random.random() < 0.5 else random.choice(SINGLES)), False


def make(random: Random, family: Family, split: str, *, classic: bool = False) -> Made:
    """One task of a family, with names and tests drawn."""
    if classic and isinstance(family, Single):
        draft = family.draw(random, PLAIN, classic=True)
    else:
        draft = family.draw(random, _composition(random, family, split))
    given = arguments.names(random, draft.takes)
    name = random.choice(_names(draft, classic))
    form = random.choice(CLASSIC_FORMS if classic else FORMS)
    said = arguments.named(draft.says, given)
    if random.random() < 0.68:
        prompt = form.format(f"{name}({', '.join(given)})", said)
    else:
        closing = f"The argument is {given[0]}." if len(given) == 1 else f"The arguments are {' and '.join(given)}."
        prompt = f"{form.format(name, said)} {closing}"
    body = arguments.named(draft.body, given).replace("\n", "\n    ")
    solution = f"def {name}({', '.join(given)}):\n    {body}\n"
    test = tests(random, draft)
    return Made(
        family=draft.family,
        composition=draft.composition,
        prompt=prompt,
        entry_point=name,
        solution=solution,
        test=test,
        split=split,
    )


def _names(draft: Draft, classic: bool) -> Sequence[str]:
    if not classic:
        return WIDE_NAMES
    return TEXT_NAMES if draft.takes[0] in arguments.TEXTS else NAMES


def _composition(random: Random, family: Family, split: str) -> Composition:
    choices = compositions(family, split)
    return PLAIN if PLAIN in choices and random.random() < 0.4 else random.choice(choices)


def tests(random: Random, draft: Draft) -> str:
    """`check(candidate)`: what the function must return for arguments drawn at random."""
    lines: dict[str, Any] = {}
    for _ in range(TESTS * 4):
        given = arguments.arguments(random, draft.takes)
        answer = repr(draft.means(*arguments.copied(given)))
        lines[f"    assert candidate({', '.join(map(repr, given))}) == {answer}"] = answer
        if len(lines) >= TESTS and len(set(lines.values())) > 1:
            break
    return "\n".join(["def check(candidate):", *list(lines)[-TESTS:]]) + "\n"


def check(task: Made) -> None:
    """Run a task's solution on its tests, in this process: both were made here.

    Raises:
        TaskError: it does not pass.
    """
    space: dict[str, Any] = {}
    try:
        exec(compile(f"{task.solution}\n{task.test}\ncheck({task.entry_point})\n", "task", "exec"), space)
    except Exception as error:
        raise TaskError(
            f"family {task.family}: a solution fails its own tests ({error!r}):\n{task.prompt}\n{task.solution}{task.test}"
        ) from error
