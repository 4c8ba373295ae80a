"""Coupled-GRPO as a method of the loop: rounds, what is kept of them, and runs that go on bit for bit."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffucoder import load
from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import TaskError, TrainError
from mlx_diffucoder.evaluation import Limits
from mlx_diffucoder.generation import Answer
from mlx_diffucoder.tasks import read_tasks
from mlx_diffucoder.training import grpo, rollouts
from mlx_diffucoder.training.grpo import GrpoPlan
from mlx_diffucoder.training.grpo_job import grpo_job, read_prompts
from mlx_diffucoder.training.rollouts import Reward, is_formed, rewards_of
from mlx_diffucoder.training.settings import GrpoSettings, TrainSettings

from ..conftest import DATA
from .small import small_learner
from .test_trainer import run, same


def write_tasks(path, count=5):
    rows = [
        {"task_id": i, "prompt": f"Add {i} to x.", "entry_point": "f", "test": f"def check(f):\n    assert f(1) == {1 + i}\n"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tasks(tmp_path):
    return write_tasks(tmp_path / "tasks.jsonl")


@pytest.fixture(autouse=True)
def rewarded(monkeypatch):
    """An untrained model passes nothing: here an answer passes that has an even number of characters."""
    monkeypatch.setattr(
        rollouts, "rewards_of", lambda answers, limits: [Reward(len(one.text) % 2 == 0, False) for _, one in answers]
    )


def job_of(tasks, steps=6, gradient_checkpointing=False, batch_size=6, learning_rate=1e-2, **changes):
    learner = small_learner(tasks.parent)
    settings = TrainSettings(steps=steps, batch_size=batch_size, learning_rate=learning_rate, save_every=100)
    fields = {"group": 4, "prompts_per_step": 2, "updates": 2, **changes}
    decoding = GenerationConfig(max_tokens=8, temperature=1.0)
    plan = GrpoPlan(grpo=GrpoSettings(**fields), decoding=decoding, limits=Limits())
    prompts = read_prompts(tasks, learner, decoding)
    return grpo_job(learner, settings, plan, prompts, gradient_checkpointing=gradient_checkpointing)


# Within a round, and between two.
@pytest.mark.parametrize(
    ("stopped", "changes"),
    [
        (1, {"kl": 0.1}),
        (1, {"kl": 0.1, "order": "left-to-right"}),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in [(1, {}), (2, {}), (2, {"kl": 0.1}), (3, {}), (3, {"kl": 0.1})]),
    ],
)
def test_a_run_that_goes_on_gives_the_bits_of_an_unbroken_one(tmp_path, tasks, stopped, changes):
    whole = run(job_of(tasks, **changes), tmp_path / "whole")
    assert not run(job_of(tasks, **changes), tmp_path / "broken", stop_after=stopped).done
    run(job_of(tasks, **changes), tmp_path / "broken", resume=True)
    for file in ("model.safetensors", "step-00000006/optimizer.safetensors"):
        assert same(tmp_path / "whole" / file, tmp_path / "broken" / file), file
    assert not (tmp_path / "whole" / "round.safetensors").exists()  # of no use to who loads the model
    assert 0 < whole.last["solved"] < 1


def test_the_answers_of_a_round_serve_its_updates_with_masks_of_their_own(tasks):
    job = job_of(tasks, updates=3, batch_size=100)
    method = job.method()
    first, second, third, fourth = ([part[0] for part in method.batches(job.learner.model, step)] for step in range(4))
    for one, other in ((first, second), (second, third)):
        assert len(one) == len(other)
        assert any((a != b).any() for a, b in zip(one, other, strict=True))
        count = len(one[0]) // 3
        assert (one[0][:count] == other[0][:count]).all()  # the canvas with all hidden
    assert len(fourth) != len(third) or any(a.shape != b.shape or (a != b).any() for a, b in zip(fourth, third, strict=True))


def test_a_round_asks_each_prompt_as_often_as_the_others(tasks):
    method = job_of(tasks).method()
    asked = [index for number in range(5) for index in method._chosen(number)]
    assert np.bincount(asked).tolist() == [2] * 5
    assert method._chosen(0) != method._chosen(5)


@pytest.mark.parametrize("order", ["any", "left-to-right"])
def test_before_anything_is_learnt_the_old_and_the_reference_log_pi_are_those_of_now(tasks, order):
    job = job_of(tasks, kl=0.1, order=order, updates=3)
    method = job.method()
    method.batches(job.learner.model, 0)
    for part in method.batches(job.learner.model, 2):
        *questions, old, reference, _, _ = part
        now = method._likelihood.log_pi(job.learner.model, *questions)
        assert mx.allclose(now, old, atol=1e-5)
        assert mx.allclose(now, reference, atol=1e-5)


def test_groups_whose_answers_all_earn_the_same_are_not_forwarded_but_for_a_kl(tasks, monkeypatch):
    monkeypatch.setattr(rollouts, "rewards_of", lambda answers, limits: [Reward(True, True) for _ in answers])
    for kl, parts in ((0.0, 1), (0.1, 4)):
        job = job_of(tasks, kl=kl)
        method = job.method()
        assert len(method.batches(job.learner.model, 0)) == parts
        assert method.news() == {"reward": pytest.approx(1.1), "solved": 1, "formed": 1, "telling": 0}


def test_how_many_are_forwarded_together_changes_no_gradient(tasks):
    losses = []
    for batch_size in (3, 6, 100):
        job = job_of(tasks, batch_size=batch_size, updates=1)
        method = job.method()
        model = job.learner.model
        found = [np.array(part[-2]) * np.array(part[-1]) for part in method.batches(model, 0)]
        losses.append(sum(one.sum() for one in found))
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)


def test_what_earns_more_becomes_more_probable(tmp_path, tasks, monkeypatch):
    """Answers with a digit earn; few have one at first, and nearly all in the end."""
    monkeypatch.setattr(
        rollouts, "rewards_of", lambda answers, limits: [Reward(any(map(str.isdigit, one.text)), False) for _, one in answers]
    )
    seen = []
    run(
        job_of(tasks, steps=24, group=8, prompts_per_step=3, updates=4, batch_size=48, learning_rate=1e-1),
        tmp_path / "out",
        seen=seen,
    )
    rewards = [report.news["solved"] for report in seen]
    assert np.mean(rewards[:4]) < 0.5
    assert np.mean(rewards[-4:]) > 0.8


def test_recomputing_changes_neither_answers_nor_loss(tasks):
    found = []
    for twice in (False, True):
        job = job_of(tasks, gradient_checkpointing=twice)
        method = job.method()
        model = job.learner.model
        parts = method.batches(model, 0)
        found.append((parts[0][0], float(method.loss(model, *parts[0]))))
    assert (found[0][0] == found[1][0]).all()
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


def test_answers_that_cannot_differ_and_prompts_that_leave_no_room_are_refused(tmp_path, tasks):
    with pytest.raises(TrainError, match="group must be 2 or more"):
        GrpoSettings(group=1)
    with pytest.raises(TrainError, match="temperature must be above 0"):
        GrpoPlan(grpo=GrpoSettings(), decoding=GenerationConfig(temperature=0.0), limits=Limits())
    with pytest.raises(TrainError, match="order must be one of any, left-to-right, not 'left'"):
        GrpoSettings(order="left")
    block_causal = load(DATA / "stable-diffcoder-a")[0]
    with pytest.raises(TrainError, match="order left-to-right is not for Stable-DiffCoder models: they fill one block after"):
        grpo.likelihood_of("left-to-right", block_causal, 0)
    learner = small_learner(tmp_path)
    with pytest.raises(TaskError, match=r"tasks.jsonl:1: max_tokens \d+ does not fit"):
        read_prompts(tasks, learner, GenerationConfig(max_tokens=2**20, temperature=1.0))


def test_a_run_of_other_settings_does_not_go_on_with_this_one(tmp_path, tasks):
    run(job_of(tasks), tmp_path / "out", stop_after=1)
    with pytest.raises(TrainError, match=r"group was 4 and is 3 now"):
        run(job_of(tasks, group=3), tmp_path / "out", resume=True)


def test_an_answer_earns_by_its_tests_and_a_little_by_its_form(tasks):
    task = read_tasks(tasks)[2]
    texts = ["def f(x):\n    return x + 2\n", "def f(x):\n    return x\n", "def g(x):\n    return x\n", "def f(x:\n", ""]
    answers = [(task, Answer(text, ended=True)) for text in texts]
    answers.append((task, replace(answers[0][1], ended=False)))
    found = rewards_of(answers, Limits())
    assert [(one.passed, one.formed) for one in found] == [
        (True, True),
        (False, True),
        (False, False),
        (False, False),
        (False, False),
        (True, False),
    ]
    assert found[0].value(0.1) == pytest.approx(1.1)
    assert found[1].value(0.1) == pytest.approx(0.1)
    assert not is_formed("f = " + "(" * 5000, "f")
    assert not is_formed("f = '\0'", "f")
