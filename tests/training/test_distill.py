"""Distillation: the model's own answers, the objective `drafts`, and what is refused."""

import json
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.data import HELD_OUT
from mlx_diffucoder.decoding.windows import tree
from mlx_diffucoder.errors import TaskError, TrainError
from mlx_diffucoder.evaluation import Limits
from mlx_diffucoder.loading import resolve
from mlx_diffucoder.tasks import Task
from mlx_diffucoder.training import drafts
from mlx_diffucoder.training.answers import OwnAnswer, own_answers, read_prompts
from mlx_diffucoder.training.d2f import BLOCK, D2F
from mlx_diffucoder.training.distill import OBJECTIVES, DistillPlan, distill_job
from mlx_diffucoder.training.distilled import compared
from mlx_diffucoder.training.dparallel import DParallel
from mlx_diffucoder.training.drafts import DECAY, NEXT, Drafts, reached
from mlx_diffucoder.training.grpo import Prompt
from mlx_diffucoder.training.learners import Tuning, add_adapters, from_checkpoint, without_adapter
from mlx_diffucoder.training.settings import TrainSettings
from mlx_diffucoder.training.trainer import Hooks
from mlx_diffucoder.training.trajectory import Trajectory

from .small import CHECKPOINT, small_model

DECODING = GenerationConfig(max_tokens=32)
ASSERTS = "".join(f"    assert f({i}) == {i}\n" for i in range(3))
TASK = {"task_id": "a", "prompt": "Write f(x).", "entry_point": "f", "test": f"def check(f):\n{ASSERTS}"}


TEXTS = [
    OwnAnswer(np.arange(3, 8), np.arange(10, 19), [1, 4, 9]),
    OwnAnswer(np.arange(20, 23), np.arange(25, 27), [2]),
    OwnAnswer(np.arange(3, 6), np.arange(8, 28), [2, 9, 20]),
]


class Ids:
    mask_id, pad_id = 1, 2


def test_each_draft_is_that_of_one_plain_forward_with_its_masks_alone():
    """The oracle: the text before, causal after its prompt, then masks; a forward for each block, its rows one by one."""
    model, rng = small_model(), np.random.default_rng(0)
    texts = TEXTS[:2]
    tokens, positions, seen, rows, targets, is_target, _ = Drafts(Ids).draw(texts, rng)
    logits = model.logits(model.model(tokens, positions, seen, None))
    logits = logits.reshape(-1, logits.shape[-1])
    count = 0
    for block, (of_block, wanted, used) in enumerate(zip(rows.tolist(), targets.tolist(), is_target.tolist(), strict=True)):
        text = texts[block // Drafts.blocks]
        ids, prompt = [*text.prompt.tolist(), *text.answer.tolist()], len(text.prompt)
        start = positions.flatten()[of_block[0]].item()
        plain = mx.array([[*ids[:start], ids[start - 1], *[Ids.mask_id] * Drafts.masks]])
        at = np.arange(plain.shape[1])
        visible = np.tri(start + 1 + Drafts.masks, dtype=bool)
        visible[:start, :prompt] = True
        visible[start:] = at != start - 1  # it stands with the masks once more, and sees them
        at[start:] -= 1
        found = model(plain, positions=mx.array(at)[None], mask=mx.array(visible))[0, start + 1 :]
        assert mx.allclose(found, logits[mx.array(of_block)], atol=1e-5)
        assert [one for one, is_one in zip(wanted, used, strict=True) if is_one] == ids[start + 1 :][: Drafts.masks]
        count += sum(used)
    assert count > 10


def test_dparallel_is_the_cross_entropy_and_the_entropy_of_what_is_right_already():
    model, texts = small_model(), TEXTS[:2]
    tokens, places, targets, weights = DParallel(Ids).draw(texts, np.random.default_rng(0))
    count = int(weights.sum())
    assert count == 11  # each token of the answers once
    canvases, length = np.array(tokens), tokens.shape[1]
    assert sorted(targets.tolist()[:count]) == [*range(10, 19), 25, 26]
    row, at = divmod(int(places[0]), length)
    targets[0] = model(tokens[row : row + 1])[0, at - 1].argmax()  # this one is right already
    lost, entropies = [], []
    for place, target in zip(places.tolist()[:count], targets.tolist()[:count], strict=True):
        row, at = divmod(place, length)
        assert canvases[row, at] == Ids.mask_id
        logits = np.array(model(tokens[row : row + 1]))[0, at - 1].astype(np.float64)
        log_probs = [one - np.logaddexp.reduce(one) for one in (logits, logits / 0.5)]
        lost.append(-log_probs[0][target])
        if logits.argmax() == target:
            entropies.append(-(np.exp(log_probs[1]) * log_probs[1]).sum())
    wanted = np.mean(lost) + np.mean(entropies)
    assert float(DParallel(Ids).loss(model, tokens, places, targets, weights)) == pytest.approx(wanted, rel=1e-4)


def test_a_guess_counts_as_much_as_those_before_it_are_likely():
    lost = np.random.default_rng(0).random((2, 16))
    places = mx.broadcast_to(mx.arange(NEXT), (2, NEXT))
    found = np.array(reached(mx.array(lost.astype(np.float32)), places))
    one = np.array(reached(mx.array(lost.astype(np.float32)), mx.array([[3], [16]])))
    assert one[0] == pytest.approx(DECAY ** np.arange(16) * [0, 0, 0, *np.exp(-np.cumsum([0, *lost[0, 3:15]]))], rel=1e-4)
    assert not one[1].any()  # the tree went on after the last guess
    for row, losses in zip(found, lost, strict=True):
        for place, weight in enumerate(row):
            each = [np.exp(-losses[start:place].sum()) if start <= place else 0 for start in range(NEXT)]
            assert weight == pytest.approx(DECAY**place * np.mean(each), rel=1e-4)


def test_the_states_of_a_trajectory_are_those_that_the_tree_was_in(tmp_path, learner, monkeypatch):
    """The masks of each forward, from what the window planned; the guesses in use start where its walk ended."""
    plans = []
    planned = tree.plan_row
    monkeypatch.setattr(tree, "plan_row", lambda *given, **how: plans.append(planned(*given, **how)) or plans[-1])
    prompts = [Prompt(Task(id=text, where=text, prompt=text, tests=""), [5, 6, 7 + index]) for index, text in enumerate("ab")]
    decoding = GenerationConfig(max_tokens=34, window="tree:rows=32", rule="threshold:tau=1.0")
    how = {"base": "", "together": 1}
    rows = own_answers(learner.model, learner.tokenizer, prompts, decoding, Limits(), tmp_path / "answers.jsonl", **how)
    assert sum(len(row["known"]) for row in rows) == len(plans)
    for row in rows:
        known = [0, *row["known"]]
        own, plans = plans[: len(row["known"])], plans[len(row["known"]) :]
        assert [min(plan.candidates) - 3 for plan in own] == known[:-1]
        states = Trajectory(Ids).states(OwnAnswer(np.array([5, 6, 7]), np.zeros(41, np.int32), row["known"]))
        assert [state.known for state in states] == known[:-1]
        assert [list(state.places) for state in states] == [[after - before - 1] for before, after in pairwise(known)]
        full = [state.masks == len(plan.masks) for state, plan in zip(states, own, strict=True) if plan.masks[-1] < 36]
        assert full and all(full)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_has_the_gradient_of_its_loss_and_falls_with_it(objective, monkeypatch):
    """The slope between two losses nearby, with what the objective takes as given held fixed."""
    model = small_model()
    add_adapters(model, Tuning(tune="lora", gated=True, rank=2), 0)
    model.update(tree_map(lambda one: one + 0.1 * mx.random.normal(one.shape), model.trainable_parameters()))
    method = OBJECTIVES[objective](Ids)
    batch = method.draw(TEXTS, np.random.default_rng(0))
    weights = []
    monkeypatch.setattr(
        drafts, "reached", lambda *given: weights[0] if weights else weights.append(reached(*given)) or weights[0]
    )
    value, gradient = nn.value_and_grad(model, lambda: method.loss(model, *batch))()
    start = model.trainable_parameters()

    def after(step):
        model.update(tree_map(lambda one, slope: one - step * slope, start, gradient))
        return float(method.loss(model, *batch))

    norm = sum(float((slope * slope).sum()) for _, slope in tree_flatten(gradient)) ** 0.5
    far = 2e-3  # that all weights together move
    assert (after(-far / norm) - after(far / norm)) / (2 * far) == pytest.approx(norm, rel=0.02)
    assert after(10 * far / norm) < float(value)


def test_d2f_is_the_cross_entropy_to_the_base_s_distribution_over_the_share_of_masks():
    model = small_model()
    add_adapters(model, Tuning(tune="lora", gated=True, rank=2), 0)
    model.update(tree_map(lambda one: one + 0.1 * mx.random.normal(one.shape), model.trainable_parameters()))
    tokens, seen, places, weights = batch = D2F(Ids).draw(TEXTS, np.random.default_rng(0))
    lost, count = 0.0, 0
    for row, text in enumerate(TEXTS):
        block = np.where(
            np.arange(tokens.shape[1]) < len(text.prompt), 0, (np.arange(tokens.shape[1]) - len(text.prompt)) // BLOCK + 1
        )
        visible = block[None, :] <= block[:, None]
        assert np.array_equal(np.array(seen[row, 0]), visible)
        with without_adapter(model):
            wanted = mx.softmax(model(tokens[row : row + 1])[0], axis=-1)
        found = model(tokens[row : row + 1], mask=mx.array(visible))[0]
        found = found - mx.logsumexp(found, axis=-1, keepdims=True)
        assert np.array_equal(np.array(tokens[row, : len(text.prompt)]), text.prompt)
        for at in range(len(text.prompt), len(text)):
            if tokens[row, at].item() == Ids.mask_id:
                weight = weights[places.tolist().index(row * tokens.shape[1] + at)].item()
                assert 1 / 0.7 <= weight * sum(len(one.answer) for one in TEXTS) <= 1 / 0.2
                lost -= weight * float((wanted[at - 1] * found[at - 1]).sum())
                count += 1
            else:
                assert tokens[row, at].item() == text.answer[at - len(text.prompt)]
    assert count == int((weights > 0).sum())
    assert float(D2F(Ids).loss(model, *batch)) == pytest.approx(lost, rel=1e-4)


@pytest.fixture(scope="module")
def learner():
    return from_checkpoint(CHECKPOINT, "small", Tuning(tune="lora", gated=True), 0)


def written(path, *rows):
    path.write_text("".join(json.dumps({**TASK, **row}) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "row, said",
    [
        (
            {"prompt": json.loads(HELD_OUT.read_text().splitlines()[0])["prompt"].upper()},
            r"models are judged by this prompt .*jsonl",
        ),
        ({"prompt": "Write f(x) .\n", "task_id": "b"}, r"judged by this prompt \(.*judge.jsonl:1\)"),
        ({"task_id": "HumanEval/3"}, r"judged by this prompt \(the benchmark of HumanEval/3\)"),
        ({"test": "def check(f):\n    assert f(1)\n    assert f(2)\n"}, "no task has 3 asserts"),
    ],
)
def test_what_teaches_nothing_or_judges_is_refused(tmp_path, learner, row, said):
    judge = written(tmp_path / "judge.jsonl", {"prompt": "write F(X) ."})
    with pytest.raises(TaskError, match=said):
        read_prompts(written(tmp_path / "t.jsonl", row), learner, DECODING, untested=False, judges=[judge])


def test_rows_without_tests_are_prompts_if_they_are_asked_for(tmp_path, learner):
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": "Add."}) + "\n" + json.dumps(TASK) + "\n")
    found = read_prompts(tmp_path / "t.jsonl", learner, DECODING, untested=True)
    assert [bool(one.task.tests) for one in found] == [False, True]
    with pytest.raises(TaskError, match=r"t.jsonl:1: not a task"):
        read_prompts(tmp_path / "t.jsonl", learner, DECODING, untested=False)


def run(folder, rows, steps=2, tests="assert f(0) == 7", resume=False, begun=False):
    """A run of the bundled model on prompts that it answers; returns its trainer, method and report."""
    learner = from_checkpoint(resolve("pocket"), "pocket", Tuning(tune="lora", gated=True, rank=2), 0)
    prompts = read_prompts(rows, learner, DECODING, untested=True)
    prompts = [replace(one, task=replace(one.task, tests=tests)) if tests else one for one in prompts]
    settings = TrainSettings(steps=2, batch_size=2, learning_rate=1e-2, save_every=1)
    plan = DistillPlan(objective="drafts", max_tokens=32, limits=Limits())
    job, method = distill_job(learner, settings, plan, prompts, prompts[:1])
    trainer = job.trainer(folder, Hooks(stop=lambda: trainer.progress.step == steps), resume=resume)
    method.prepare(folder / "answers.jsonl", begun=begun)
    trainer.run()
    trainer.folder.close()
    return trainer, method, lambda: compared(learner, plan, prompts[:1], method.greedy)


@pytest.mark.slow
def test_a_run_learns_from_right_answers_and_resumes_to_the_same_bits(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Write f(x), a function that returns x plus {i}."}) + "\n" for i in (7, 8, 9)))
    whole, method, report = run(tmp_path / "whole", rows, tests="")
    numbers = report()
    assert len(method.greedy) == 1
    assert numbers["before"]["same"] == 1
    assert numbers["before"].keys() == numbers["after"].keys()
    assert numbers["before"]["loss"] != numbers["after"]["loss"]
    assert whole.progress.best is not None
    run(tmp_path / "cut", rows, steps=1, tests="")
    answers = tmp_path / "cut" / "answers.jsonl"
    assert answers.read_text() == (tmp_path / "whole" / "answers.jsonl").read_text()
    run(tmp_path / "cut", rows, tests="", resume=True, begun=True)
    name = "step-00000002/adapters.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:2]) + '{"key": "cut')
    with pytest.raises(TrainError, match="lacks answers that the run has learned from"):
        run(tmp_path / "cut", rows, tests="", resume=True, begun=True)
    with pytest.raises(TrainError, match="none of the 3 answers ends and passes its tests"):
        run(tmp_path / "wrong", rows)


@pytest.mark.parametrize("fields, said", [({"objective": "draft"}, "objective must be one of drafts.*did you mean 'drafts'")])
def test_a_plan_that_cannot_work_is_refused(fields, said):
    with pytest.raises(TrainError, match=said):
        DistillPlan(**{"objective": "drafts", "max_tokens": 32, "limits": Limits(), **fields})
