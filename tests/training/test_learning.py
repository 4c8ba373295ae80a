"""That training teaches: minutes long."""

import json
import re

import pytest

from bench.pocket.recipe import CAUSAL, TASKS, make, start, train
from bench.studies.adaptation import family, measure
from bench.studies.curve import read
from mlx_diffucoder.evaluation import Limits, run_program
from mlx_diffucoder.tasks import read_tasks

from ..conftest import DATA

CURVE = DATA.parents[1] / "bench" / "pocket" / "causal.jsonl"


def test_the_new_familys_tasks_are_passed_by_their_solutions_and_are_none_of_those_trained_on(tmp_path):
    rows, tasks = family()
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    for task in read_tasks(file)[::8]:
        assert run_program(task.solution, task.tests, Limits(timeout=60)).kind == "passed"

    def returned(solution):
        return re.sub(r"for r in \w+", "for r in rows", solution.split("return ")[1])

    learnt = {returned(row["completion"]) for row in rows}
    asked = {returned(task["canonical_solution"]) for task in tasks}
    assert (len(learnt), len(asked)) == (60, 15)
    assert not learnt & asked


@pytest.mark.slow
def test_an_adapter_on_the_quantized_pocket_takes_a_new_family_from_under_20_to_over_70_percent(tmp_path):
    found = measure("pocket", tmp_path)
    assert found["before"] < 0.2
    assert found["after"] > 0.7


@pytest.mark.slow
def test_the_recipe_from_random_weights_lowers_the_loss_along_the_kept_curve(tmp_path):
    make(tmp_path / "tasks", **TASKS["plain"] | {"size": 20_000})  # the first tenth of the recipe's
    start(tmp_path / "tasks" / "train.jsonl", tmp_path / "start")
    flags = CAUSAL | {"steps": CAUSAL["warmup"], "seed": 0}  # the rate rises alike
    train(tmp_path / "tasks", tmp_path / "causal", tmp_path / "start", flags)
    found, kept = (read(file)[:4] for file in (tmp_path / "causal" / "log.jsonl", CURVE))
    assert [row["step"] for row in found] == [row["step"] for row in kept] == [25, 50, 75, 100]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in kept], rel=0.15)
    assert found[-1]["loss"] < 0.2 * found[0]["loss"]
