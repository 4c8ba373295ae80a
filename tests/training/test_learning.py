"""That training teaches: minutes long."""

import json
import re

import pytest

from mlx_diffucoder.bench.adaptation import family, measure
from mlx_diffucoder.evaluation import Limits, read_tasks, run_program

from ..cli.command import diffucode
from ..conftest import DATA


def test_the_new_familys_tasks_are_passed_by_their_solutions_and_are_none_of_those_trained_on(tmp_path):
    train, tasks = family()
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    for task in read_tasks(file)[::8]:
        assert run_program(task.solution, task.tests, Limits(timeout=60)).kind == "passed"

    def returned(solution):
        return re.sub(r"\w+\.values", "d.values", solution.split("return ")[1])

    learnt = {returned(row["completion"]) for row in train}
    asked = {returned(task["canonical_solution"]) for task in tasks}
    assert (len(learnt), len(asked)) == (60, 15)
    assert not learnt & asked


@pytest.mark.slow
def test_an_adapter_on_the_quantized_pocket_takes_a_new_family_from_under_20_to_over_70_percent(tmp_path):
    found = measure("pocket", tmp_path)
    assert found["before"] < 0.2
    assert found["after"] > 0.7


@pytest.mark.slow
def test_a_few_minutes_from_random_weights_lower_the_loss(tmp_path):
    pocket = DATA.parents[1] / "mlx_diffucoder" / "pocket"
    tasks = DATA.parents[1] / "bench" / "tasks" / "functions.jsonl"
    done = diffucode(
        *("train", "--from-scratch", pocket / "config.json", "--tokenizer", pocket, "--data", tasks, "--out", tmp_path / "run"),
        *("--steps", 60, "--batch-size", 8, "--accumulate", 2, "--learning-rate", 1e-3, "--warmup", 10, "--max-length", 128),
    )
    assert done.returncode == 0, done.stderr
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
