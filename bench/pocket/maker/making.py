"""One task from a draft: names chosen, tests worked out, the code run on them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from mlx_diffucoder.errors import TaskError

from . import arguments
from .counting import CLASSIC
from .family import Composition, Draft, Drawer

NAMES = ("f", "func", "run", "solve", "compute", "calc", "process", "answer")
TEXT_NAMES = (*NAMES, "convert", "transform")
FOUND_NAMES = (*TEXT_NAMES, "find", "get", "make", "build")
# Names that only training uses.
WIDE_NAMES = (
    "fn",
    "g",
    "h",
    "helper",
    "apply",
    "main",
    "task",
    "work",
    "produce",
    "give",
    "fetch",
    "my_func",
    "func1",
    "do",
    "go",
)
CLASSIC_FORMS = (
    "Write a function {} that returns {}.",
    "Write a Python function named {} that returns {}.",
    "Implement {}: return {}.",
    "Define {} so that it returns {}.",
    "I need a function called {}. It should return {}.",
)
FORMS = (*CLASSIC_FORMS, "Create a function {} that returns {}.", "Write {}, a function that returns {}.")
IN_NAME = 0.68  # how often the arguments stand behind the function's name, not in a sentence of their own


class Untestable(TaskError):
    """No tests were found for a task."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A task: what is asked, the code that answers it, and tests that the code passes."""

    family: str
    composition: Composition
    seen: bool
    prompt: str
    entry_point: str
    solution: str
    test: str

    def row(self, task_id: str) -> dict[str, str]:
        """The task in HumanEval's field names; `completion` is what a model should answer."""
        return {
            "task_id": task_id,
            "family": self.family,
            "split": "seen" if self.seen else "unseen",
            "prompt": self.prompt,
            "entry_point": self.entry_point,
            "canonical_solution": self.solution,
            "completion": self.solution,
            "test": self.test,
        }


@dataclass(frozen=True, kw_only=True)
class Named:
    """A draft with its names chosen and its instruction written."""

    draft: Draft
    prompt: str
    entry_point: str
    solution: str


def name(random: Drawer, draft: Draft, *, classic: bool = False) -> Named:
    """Choose names and a form for a draft; `classic` keeps to those of the first pocket model's tasks.

    Which way the function is written follows from the form of its instruction. Chance would teach a model that fills all
    places at once nothing but that it cannot know, before any token stands, which way the others begin.
    """
    given = arguments.names(random, draft.takes)
    called = random.choice(WIDE_NAMES if not classic and random.widely() else _names(draft, classic))
    form = random.choice(CLASSIC_FORMS if classic else FORMS)
    says, head = arguments.named(draft.says, given), f"{called}({', '.join(given)})"
    if random.random() < IN_NAME:
        prompt = form.format(head, says)
    else:
        closing = f"The argument is {given[0]}." if len(given) == 1 else f"The arguments are {' and '.join(given)}."
        prompt = f"{form.format(called, says)} {closing}"
    body = draft.bodies[FORMS.index(form) % len(draft.bodies)]
    body = arguments.named(body, given).replace("\n", "\n    ")
    return Named(draft=draft, prompt=prompt, entry_point=called, solution=f"def {head}:\n    {body}\n")


def make(named: Named, *, seen: bool, tests: int) -> Made:
    """The task, with tests drawn (the same for the same prompt) and the code run on them.

    Raises:
        Untestable: none could be made; where the blanks are those of the family, a defect of it.
        TaskError: the code fails the tests: a defect of the family.
    """
    task = Made(
        family=named.draft.family,
        composition=named.draft.composition,
        seen=seen,
        prompt=named.prompt,
        entry_point=named.entry_point,
        solution=named.solution,
        test=_tests(Random(named.prompt), named.draft, tests),
    )
    run(task)
    return task


def _names(draft: Draft, classic: bool) -> Sequence[str]:
    if not classic:
        return FOUND_NAMES
    return TEXT_NAMES if draft.takes[0] in arguments.TEXTS else NAMES


def _tests(random: Random, draft: Draft, count: int) -> str:
    """`check(candidate)`: what the function must return for arguments drawn at random.

    Where the largest of nothing is None, tests say so only in tasks whose wording does, and in those of the first
    pocket model's grid, as its task file has it.
    """
    says_none = "None" in draft.says or draft.family == CLASSIC.name
    near = [int(number) for number in re.findall(r"\b\d+\b", draft.says)]
    cases: dict[str, list[str]] = {}  # the calls that have an answer, by its text
    drawn = found = 0
    while found < count or not _varied(len(cases), drawn / count):
        given = arguments.arguments(random, draft.takes, near)
        answer = draft.means(*arguments.copied(given))
        drawn += 1
        if drawn > count * 40:
            break
        call = f"candidate({', '.join(map(repr, given))})"
        if (answer is not None or says_none) and call not in (known := cases.setdefault(repr(answer), [])):
            known.append(call)
            found += 1
    if found < 2:
        raise Untestable(f"family {draft.family}: no tests for {draft.says!r}")
    # One of each answer, then a second of each, ...
    in_turn = sorted((turn, answer, call) for answer, calls in cases.items() for turn, call in enumerate(calls))
    return "\n".join(["def check(candidate):", *(f"    assert {call} == {answer}" for _, answer, call in in_turn[:count])]) + "\n"


def _varied(answers: int, rounds: float) -> bool:
    """Whether so many different answers are enough after so many rounds of draws."""
    return answers > 2 or (answers == 2 and rounds > 3) or rounds > 10


def run(task: Made) -> None:
    """Run a task's solution on its tests, in this process: both were made here.

    Raises:
        TaskError: it does not pass.
    """
    space: dict[str, Any] = {}
    try:
        exec(compile(f"{task.solution}\n{task.test}\ncheck({task.entry_point})\n", "task", "exec"), space)
    except Exception as error:
        code = f"{task.solution}{task.test}"
        raise TaskError(f"family {task.family}: a solution fails its own tests ({error!r}):\n{task.prompt}\n{code}") from error
