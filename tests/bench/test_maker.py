"""The task maker: every wording with every way of writing it, what is kept out of training, the files it writes."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.pocket.maker import tasks
from bench.pocket.maker.__main__ import wide_tasks
from bench.pocket.maker.arguments import WIDE_NAMES, arguments, copied, named, names
from bench.pocket.maker.catalogue import CLASSIC_SINGLES, FAMILIES, GRIDS, SINGLES, WIDE, compositions, digest, unseen
from bench.pocket.maker.copying import COPYING
from bench.pocket.maker.counting import CLASSIC, CLASSIC_UNSEEN
from bench.pocket.maker.drawing import kept_out, nest
from bench.pocket.maker.family import BLANK, PLAIN, Draft, Drawer, Picked, around, filled
from bench.pocket.maker.grid import Grid
from bench.pocket.maker.making import make, name
from bench.pocket.maker.single import MORE_OUTER, OUTER, Single
from mlx_diffucoder.errors import TaskError
from mlx_diffucoder.evaluation.execute import Limits, run_program
from mlx_diffucoder.tasks import read_tasks

ROOT = Path(__file__).parents[2]
FUNCTIONS = ROOT / "bench" / "tasks" / "functions.jsonl"
COMMITTED = ROOT / "bench" / "tasks" / "wide.jsonl"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(body, given):
    """The function f of a body whose blanks are filled."""
    space = {}
    exec(f"def f({', '.join(given)}):\n    " + named(body, given).replace("\n", "\n    "), space)
    return space["f"]


def test_there_are_far_more_than_sixty_families_and_no_two_share_a_name():
    assert len(WIDE) > 120 and len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert sum(len(family.says) > 1 or len(family.code) > 1 for family in SINGLES) >= 60


def test_every_way_of_writing_a_single_family_agrees_with_what_it_means():
    for family in SINGLES:
        random = Drawer(family.name)
        for code in family.code:
            for _ in range(8):
                given, blanks = names(random, family.takes), [random.choice(family.blanks)] if family.blanks else []
                function = written(filled(code, blank=blanks[0]) if blanks else code, given)
                for _ in range(4):
                    values = arguments(random, family.takes)
                    answer, expected = function(*copied(values)), family.means(*copied(values), *blanks)
                    assert (answer, type(answer)) == (expected, type(expected)), (code, values)


def test_every_wording_and_code_speaks_of_all_arguments_and_of_its_blank_alone():
    for family in SINGLES:
        wanted = set("XY"[: len(family.takes)])
        for text in (*family.says, *family.code):
            found = set(BLANK.findall(text))
            assert found - {"N", "C"} == wanted, text
            assert len(found & {"N", "C"}) == bool(family.blanks), text


def test_compositions_of_every_family_pass_their_own_tests():
    for family in FAMILIES:
        random = Drawer(family.name)
        for composition in random.sample(family.compositions, min(30, len(family.compositions))):
            made = make(name(random, family.draw(random, composition)), seen=True, tests=4)  # raises where it does not pass
            assert not BLANK.search(made.prompt.replace("I need", "")) and "*" not in made.prompt, made.prompt


def test_every_way_of_writing_a_composition_agrees_with_what_it_means():
    for family in GRIDS:
        random = Drawer(family.name)
        for composition in random.sample(family.compositions, 8):
            for draft in [family.draw(random, composition) for _ in range(6)]:
                given = names(random, draft.takes)
                for body in draft.bodies:
                    for _ in range(3):
                        values = arguments(random, draft.takes)
                        assert written(body, given)(*copied(values)) == draft.means(*copied(values)), (body, values)
                if isinstance(family, Grid):
                    assert len(draft.bodies) == (1 if composition[0] == "product" else 2)


def test_which_way_a_function_is_written_follows_from_the_form_of_its_instruction():
    begins = ("Write a function", "Write a Python function", "Implement", "Define", "I need a function")
    ways = {begin: set() for begin in begins}
    for task in tasks(600, 0, "train", classic=1):
        if task.family == CLASSIC.name:
            begin = next(begin for begin in begins if task.prompt.startswith(begin))
            ways[begin].add("for " in task.solution.splitlines()[1])
    assert list(ways.values()) == [{True}, {False}, {True}, {False}, {True}]


def test_a_family_whose_code_is_wrong_is_not_made():
    wrong = Draft(
        family="x", composition=PLAIN, says="X plus one", bodies=("return X + 2",), takes=("int",), means=lambda n: n + 1
    )
    with pytest.raises(TaskError, match=r"family x: .* fails its own tests"):
        make(name(Drawer(0), wrong), seen=True, tests=3)


def test_an_outer_operation_goes_around_every_return_and_constants_are_worked_out():
    twice = Picked("twice E", "E * 2", lambda value: value * 2)
    assert around("if X:\n    return -1\nreturn X + 1", twice) == "if X:\n    return -2\nreturn (X + 1) * 2"
    choice = Picked("1 if E", "1 if E else 0", lambda value: 1 if value else 0)
    assert around("return X > 1", choice) == "return 1 if X > 1 else 0"


KINDS = {"int": int, "bool": bool, "str": str, "ints": list, "words": list, "rows": list}
ELEMENTS = {"ints": int, "words": str, "rows": list}


def test_the_kind_of_a_compositions_value_is_what_it_returns():
    for family in FAMILIES:
        random = Drawer(family.name)
        for composition in family.compositions:
            if kind := KINDS.get(family.value(composition)):
                draft = family.draw(random, composition)
                value = draft.means(*arguments(random, draft.takes))
                assert type(value) is kind, composition
                assert all(type(one) is ELEMENTS[family.value(composition)] for one in value) if kind is list else True


def test_what_an_operation_more_is_put_around_passes_its_own_tests_and_none_unseen_of_its_family_stands_right_around_it():
    for family in FAMILIES:
        random = Drawer(family.name)
        for composition in random.sample(compositions(family, seen=True), min(6, len(compositions(family, seen=True)))):
            inner = family.draw(random, composition)
            outer = nest(random, family, inner)
            assert outer.composition == composition
            kind = family.value(composition)
            if kind not in (MORE_OUTER if composition == PLAIN else OUTER):
                assert outer is inner
            else:
                assert 1 <= len(outer.nested) == len({*outer.nested} - {*composition})
                if composition == PLAIN:
                    first = outer.nested[0]
                    assert first in {part.name for part in MORE_OUTER[kind]} and (first,) not in family.compositions
                made = make(name(random, outer), seen=True, tests=4)  # raises where it does not pass
                assert not BLANK.search(made.prompt.replace("I need", "")) and "*" not in made.prompt, made.prompt


def test_operations_are_worded_so_that_it_is_plain_what_is_inside():
    family = next(one for one in SINGLES if one.name == "vowels")
    nested = {nest(Drawer(seed), family, family.draw(Drawer(seed), ("twice",))).says for seed in range(400)}
    assert "the square of (twice the number of vowels in X)" in nested
    even = family.draw(Drawer(0), ("even",))
    said = {nest(Drawer(seed), family, even).says for seed in range(50)}
    assert any(re.fullmatch(r"1 if the (number|count) of vowels in X is even and 0 otherwise", one) for one in said), said


def test_a_share_of_training_has_an_operation_more_and_none_where_none_is_asked_for():
    def deep(share):
        return sum(task.prompt.count(" (") > 1 or task.solution.count("(") > 5 for task in tasks(500, 0, "train", nested=share))

    assert deep(0.6) > deep(0.3) > deep(0)


def test_training_alone_is_filled_with_numbers_letters_and_names_that_evaluations_do_not_have():
    def filled_with(made, pattern):
        return {found for task in made for found in re.findall(pattern, task.prompt)}

    usual, wider = (list(tasks(2000, 0, "train", nested=0, wide=wide)) for wide in (0, 0.5))
    judged = [*tasks(400, 0, "unseen"), *tasks(400, 0, "seen")]
    above = r"(?:greater|bigger) than (\d+)"
    assert max(map(int, filled_with(wider, above))) > 90 > 20 >= max(map(int, filled_with(judged, above)))
    argument = r"argument is (\w+)"
    assert len(filled_with(wider, argument)) > 2 * len(filled_with(usual, argument))
    assert filled_with(judged, argument) <= filled_with(usual, argument)


@pytest.mark.parametrize("copying", COPYING, ids=lambda copying: copying.__name__)
def test_what_is_copied_stands_in_every_way_of_writing_it_and_agrees_with_what_it_means(copying):
    random, told = Drawer(copying.__name__), r"\b\d+\b|'\w'"
    for _ in range(200):
        draft = copying(random)
        asked = [one for one in re.findall(told, draft.says) if one != "0"]
        near = [int(one) for one in asked if one.isdecimal()]
        given = names(random, draft.takes)
        for body in draft.bodies:
            assert set(asked) <= set(re.findall(told, body))
            for _ in range(5):
                values = arguments(random, draft.takes, near)
                assert written(body, given)(*copied(values)) == draft.means(*copied(values)), body


def test_a_share_of_training_is_to_be_copied_and_no_evaluation_is():
    families = {family.name for family in FAMILIES}

    def share(split, **drawn):
        made = list(tasks(400, 0, split, **drawn))
        return sum(task.family not in families for task in made) / len(made)

    assert 0.25 < share("train", copied=0.3) < 0.35
    assert share("train", copied=0) == 0
    assert share("seen", copied=1) == 0
    assert len({task.family for task in tasks(300, 0, "train", copied=1)}) == len(COPYING)


def test_no_name_that_only_training_has_is_a_variable_of_a_bodys_own():
    random = Drawer(0)
    bodies = [body for family in FAMILIES for one in family.compositions for body in family.draw(random, one).bodies]
    own = {
        node.id
        for body in bodies
        for node in ast.walk(ast.parse("def f():\n    " + body.replace("\n", "\n    ")))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert {"total", "x", "w"} <= own
    assert not own & {name_of for names_of in WIDE_NAMES.values() for name_of in names_of}


def test_no_operation_that_only_training_has_is_one_of_the_evaluations_in_other_words():
    for kind, parts in MORE_OUTER.items():
        assert not {part.name for part in parts} & {part.name for part in OUTER[kind]}
        assert not {part.code for part in parts} & {part.code for part in OUTER[kind]}


def test_about_a_sixth_of_every_familys_compositions_is_unseen_and_no_part_is_only_there():
    for family in FAMILIES:
        kept, held = compositions(family, seen=True), compositions(family, seen=False)
        assert set(kept) | set(held) == set(family.compositions) and not set(kept) & set(held)
        for place in range(len(kept[-1])) if not isinstance(family, Single) else ():
            assert {one[place] for one in held} <= {one[place] for one in kept}, family.name
    with_none = [family.name for family in FAMILIES if not unseen(family)]
    assert with_none == ["Fahrenheit"]  # its value has no outer operations
    wide_held = sum(len(unseen(family)) for family in WIDE) / sum(len(family.compositions) for family in WIDE)
    assert 0.1 < wide_held < 0.2


def test_every_outer_operation_is_seen_on_most_families_that_have_it():
    for name_of in {part.name for parts in OUTER.values() for part in parts}:
        families = [family for family in SINGLES if (name_of,) in family.compositions]
        assert sum((name_of,) not in unseen(family) for family in families) >= 0.6 * len(families), name_of


def test_the_unseen_compositions_of_the_task_file_are_those_of_the_classic_grid():
    """Word for word: what the classic grid says of an unseen composition, no other family says."""
    assert len(CLASSIC_UNSEEN) == 39 and set(CLASSIC.compositions) >= CLASSIC_UNSEEN
    random, said = Drawer(0), {True: set(), False: set()}
    for composition in CLASSIC.compositions:
        for _ in range(60):
            says = CLASSIC.draw(random, composition).says
            said[composition in CLASSIC_UNSEEN].add("".join("N" if c.isdigit() else c for c in says).replace("NN", "N"))
    for row in rows_of(FUNCTIONS):
        argument = row["canonical_solution"].split("(")[1].split(")")[0]
        asked = row["prompt"].removesuffix(f" The argument is {argument}.").rstrip(".")
        asked = (
            asked.split(" that returns ")[-1].split(": return ")[-1].split(" so that it returns ")[-1].split("should return ")[-1]
        )
        asked = "".join("N" if c.isdigit() else c for c in asked).replace("NN", "N")
        where = " X".join(asked.rsplit(f" {argument}", 1)) if f"numbers in {argument}" in asked else None
        if where is not None:
            assert where in said[row["split"] == "unseen"] and where not in said[row["split"] == "seen"], row["prompt"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_training_sees_no_unseen_composition_and_no_prompt_of_an_evaluation(seed):
    families = {family.name: family for family in FAMILIES}
    judged = {row["prompt"] for path in (FUNCTIONS, COMMITTED) for row in rows_of(path)}
    judged |= {task.prompt for split in ("valid", "seen", "unseen") for task in tasks(100, seed + 1, split)}
    known = set()
    for task in tasks(1500, seed, "train"):
        assert task.seen
        assert task.family not in families or task.composition not in unseen(families[task.family])
        assert task.prompt not in judged and task.prompt not in known
        known.add(task.prompt)


def test_unseen_tasks_are_of_unseen_compositions_and_balanced_over_families():
    families = {family.name: family for family in FAMILIES}
    made = list(tasks(2 * (len(FAMILIES) - 1), 3, "unseen"))
    assert all(not task.seen and task.composition in unseen(families[task.family]) for task in made)
    assert len({task.family for task in made}) == len(FAMILIES) - 1


def test_a_quarter_of_training_is_of_the_task_files_grid_and_more_than_a_third_of_its_families():
    made = list(tasks(1500, 0, "train"))
    classic = sum(task.family == CLASSIC.name for task in made) / len(made)
    assert 0.22 < classic < 0.28
    singles = {family.name for family in CLASSIC_SINGLES}
    assert 0.38 < sum(task.family == CLASSIC.name or task.family in singles for task in made) / len(made) < 0.5


def test_the_prompts_kept_out_are_those_of_the_task_file():
    assert kept_out() == {digest(row["prompt"]) for row in rows_of(FUNCTIONS)}


def test_the_same_seed_gives_the_same_tasks_whatever_was_made_before():
    first = list(tasks(200, 7, "train"))
    list(tasks(50, 8, "unseen"))
    assert list(tasks(200, 7, "train")) == first != list(tasks(200, 8, "train"))
    assert list(tasks(100, 7, "train")) == first[:100]


def test_what_cannot_be_made_is_said():
    with pytest.raises(TaskError, match="split must be one of"):
        next(tasks(1, 0, "test"))
    with pytest.raises(TaskError, match="classic must be from 0 to 1"):
        next(tasks(1, 0, "train", classic=2))
    with pytest.raises(TaskError, match="nested must be from 0 to 1"):
        next(tasks(1, 0, "train", nested=-1))
    with pytest.raises(TaskError, match="wide must be from 0 to 1"):
        next(tasks(1, 0, "train", wide=3))
    with pytest.raises(TaskError, match="copied must be from 0 to 1"):
        next(tasks(1, 0, "train", copied=1.5))


def test_the_committed_wide_tasks_are_what_the_maker_makes():
    rows = [task.row(f"wide/{number}") for number, task in enumerate(wide_tasks(0))]
    assert rows_of(COMMITTED) == rows
    assert [row["split"] for row in rows].count("unseen") == 200 and len(rows) == 300
    assert not {row["family"] for row in rows} & {CLASSIC.name}


def test_the_evaluator_reads_the_rows_and_their_solutions_pass():
    read = read_tasks(COMMITTED)
    for task in read[::50]:
        assert run_program(task.solution, task.tests, Limits()).passed, task.prompt
        assert not run_program("def " + task.entry_point + "(*_):\n    return object()", task.tests, Limits()).passed


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench.pocket.maker", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def test_the_command_writes_all_files_and_refuses_to_replace_them(tmp_path):
    out = tmp_path / "out"
    sizes = ("--train", 60, "--valid", 20, "--evaluate", 20)
    done = command(out, *sizes)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {f"{name}.jsonl" for name in ("train", "valid", "seen", "unseen", "wide")}
    counts = json.loads(done.stdout)
    assert sum(counts["train"].values()) == 60 == len(rows_of(out / "train.jsonl"))
    assert all(row["completion"] == row["canonical_solution"] for row in rows_of(out / "train.jsonl"))
    before = (out / "train.jsonl").read_bytes()
    refused = command(out, *sizes, "--seed", 1)
    assert refused.returncode == 1 and refused.stderr.startswith("Error: ") and refused.stderr.count("\n") == 1
    assert (out / "train.jsonl").read_bytes() == before
    assert command(out, *sizes, "--force").returncode == 0
    assert (out / "train.jsonl").read_bytes() == before


def test_the_command_says_what_is_wrong_with_its_arguments(tmp_path):
    assert command(tmp_path, "--train", 0).returncode == 2
    wrong = command(tmp_path, "--classic", 7)
    assert wrong.returncode == 1 and wrong.stderr == "Error: classic must be from 0 to 1, not 7.0\n"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    failed = command(tmp_path / "file" / "x", "--train", 1)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "Traceback" not in failed.stderr
