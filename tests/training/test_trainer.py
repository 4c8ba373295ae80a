"""The loop: runs that go on bit for bit, checkpoints that are whole or not there, runs that go astray."""

import errno
import json
import math

import mlx.core as mx
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_diffucoder.errors import TrainError
from mlx_diffucoder.training import trainer as trainer_room
from mlx_diffucoder.training.job import Data, supervised_job
from mlx_diffucoder.training.learners import Tuning, from_checkpoint
from mlx_diffucoder.training.settings import TrainSettings
from mlx_diffucoder.training.trainer import MUON_RATE, Hooks, make_optimizer, set_rate

from .small import small_checkpoint, small_learner, write_rows


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", 6)


def job_of(rows, steps=8, learner=None, gradient_checkpointing=False, **changes):
    fields = {"batch_size": 2, "accumulate": 2, "max_length": 64, "learning_rate": 1e-3, "warmup": 2}
    fields |= {"infill": 0.3, "eval_every": 3, "save_every": 100}
    settings = TrainSettings(steps=steps, **{**fields, **changes})
    learner = learner or small_learner(rows.parent)
    data = Data.read(rows, rows, learner.tokenizer, max_length=settings.max_length, skip_long=False)
    return supervised_job(learner, settings, data, gradient_checkpointing=gradient_checkpointing)


def adapters(checkpoint, tune="lora", **fields):
    return from_checkpoint(checkpoint, "small", Tuning(tune=tune, rank=4, **fields), 0)


def run(job, out, *, stop_after=None, resume=False, seen=None):
    def stop():
        return stop_after is not None and trainer.progress.step >= stop_after

    trainer = job.trainer(out, Hooks(seen.append if seen is not None else lambda report: None, stop, 1), resume=resume)
    trainer.done = trainer.run()
    if trainer.done:
        trainer.folder.publish(trainer.progress)
    trainer.folder.close()
    return trainer


def same(one, two):
    a, b = mx.load(str(one)), mx.load(str(two))
    return a.keys() == b.keys() and all(mx.array_equal(a[name], b[name]) for name in a)


def curve(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line.get("valid")) for line in lines]


@pytest.mark.parametrize("stopped, optimizer", [(1, "adamw"), (4, "adamw"), (7, "adamw"), (4, "muon")])
def test_a_run_that_goes_on_gives_the_bits_of_an_unbroken_one(tmp_path, rows, stopped, optimizer):
    run(job_of(rows, optimizer=optimizer), tmp_path / "whole")
    assert not run(job_of(rows, optimizer=optimizer), tmp_path / "broken", stop_after=stopped).done
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    run(job_of(rows, optimizer=optimizer), tmp_path / "broken", resume=True)
    for file in ("model.safetensors", "step-00000008/optimizer.safetensors"):
        assert same(tmp_path / "whole" / file, tmp_path / "broken" / file), file
    assert curve(tmp_path / "whole") == curve(tmp_path / "broken")


@pytest.mark.parametrize("tune", ["lora", "dora"])
def test_adapters_with_dropout_go_on_bit_for_bit_too(tmp_path, rows, tune):
    checkpoint = small_checkpoint(tmp_path)
    run(job_of(rows, learner=adapters(checkpoint, tune, dropout=0.2)), tmp_path / "whole")
    run(job_of(rows, learner=adapters(checkpoint, tune, dropout=0.2)), tmp_path / "broken", stop_after=4)
    run(job_of(rows, learner=adapters(checkpoint, tune, dropout=0.2)), tmp_path / "broken", resume=True)
    assert same(tmp_path / "whole" / "adapters.safetensors", tmp_path / "broken" / "adapters.safetensors")


def test_what_was_logged_after_the_last_checkpoint_is_logged_once(tmp_path, rows):
    out = tmp_path / "run"
    run(job_of(rows), out, stop_after=4)
    before = curve(out)
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 1}\n{"step": 6, "lo')
    run(job_of(rows), out, resume=True)
    assert curve(out)[: len(before)] == before
    assert sorted({step for step, *_ in curve(out)}) == list(range(1, 9))


@pytest.mark.parametrize("patience", [0, 1])
def test_a_finished_run_that_is_resumed_changes_nothing_and_removes_what_a_kill_left(tmp_path, rows, patience):
    def listing():
        return {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()}

    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        losses = iter([1.0, 2.0, 3.0, 4.0])
        patch.setattr("mlx_diffucoder.training.job._validation", lambda *given: lambda model: next(losses))
        trainer = run(job_of(rows, patience=patience), out)
        assert trainer.progress.step == (6 if patience else 8)
        before = listing()
        for name in (".model.ab12_xyz.safetensors", ".log.ab12_xyz.jsonl", ".step-00000004.unfinished/model.safetensors"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("half")
        (trainer.folder.newest() / ".training.ab12_xyz.json").write_text("half")
        run(job_of(rows, patience=patience), out, resume=True)
    assert listing() == before


def test_training_lowers_the_loss_and_leaves_a_folder_that_loads(tmp_path, rows):
    from mlx_diffucoder import load

    trainer = run(job_of(rows, steps=40, learning_rate=1e-2, infill=0, eval_every=10), tmp_path / "run")
    found = [valid for *_, valid in curve(tmp_path / "run") if valid is not None]
    assert found[-1] < 0.6 * found[0]
    model, _ = load(tmp_path / "run")
    for (name, one), (_, two) in zip(tree_flatten(model.parameters()), tree_flatten(trainer.model.parameters()), strict=True):
        assert mx.array_equal(one, two), name


def test_batches_that_are_accumulated_are_as_one_large_batch(tmp_path, rows):
    """The sum of the parts' gradients is the gradient of all, so only rounding tells them apart."""
    job = job_of(rows, canvas="full", infill=0.0)
    parts = job.trainer(tmp_path / "a", Hooks(), resume=False)
    arrays = parts.method.batches(parts.model, 0)
    value, gradient = parts._sum(arrays)
    total = sum(float(parts._gradient(*one)[0]) for one in arrays)
    assert float(value) == pytest.approx(total, rel=1e-6)
    apart = [parts._gradient(*one)[1] for one in arrays]
    for (name, found), *pieces in zip(tree_flatten(gradient), *map(tree_flatten, apart), strict=True):
        assert mx.allclose(found, sum(piece for _, piece in pieces), rtol=1e-5, atol=1e-7), name


def test_gradient_checkpointing_trains_to_the_same_weights_but_for_rounding(tmp_path, rows):
    """And a run may go on with it that began without."""
    plain = run(job_of(rows, steps=4), tmp_path / "plain")
    run(job_of(rows, steps=4), tmp_path / "other", stop_after=2)
    other = run(job_of(rows, steps=4, gradient_checkpointing=True), tmp_path / "other", resume=True)
    for (name, one), (_, two) in zip(tree_flatten(plain.model.parameters()), tree_flatten(other.model.parameters()), strict=True):
        assert mx.allclose(one, two, atol=2e-4), name


def test_the_best_evaluation_is_what_is_kept_and_patience_ends_the_run(tmp_path, rows):
    losses = iter([3.0, 2.0, 2.5, 2.6, 2.7, 1.0])
    trainer = job_of(rows, steps=30, eval_every=2, patience=3).trainer(tmp_path / "run", Hooks(), resume=False)
    trainer.evaluate = lambda model: next(losses)
    assert trainer.run()
    assert (trainer.progress.step, trainer.progress.best, trainer.progress.best_step) == (10, 2.0, 4)
    trainer.folder.publish(trainer.progress)
    assert same(tmp_path / "run" / "model.safetensors", tmp_path / "run" / "step-00000004" / "model.safetensors")
    assert sorted(one.name for one in (tmp_path / "run").glob("step-*")) == ["step-00000004", "step-00000010"]


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_a_full_disk_while_saving_leaves_the_checkpoint_before_whole(tmp_path, rows, where, monkeypatch):
    out = tmp_path / "run"
    run(job_of(rows), out, stop_after=2)
    job = job_of(rows, save_every=2)
    trainer = job.trainer(out, Hooks(), resume=True)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "weights":
        trainer.folder._write = full
    else:
        monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(
        TrainError, match=r"step-00000003.*No space left on device.*step-00000002 is complete, continue from it with --resume"
    ):
        trainer.run()
    trainer.folder.close()
    assert [one.name for one in out.iterdir() if "step" in one.name] == ["step-00000002"]
    monkeypatch.undo()
    run(job_of(rows), out, resume=True)
    run(job_of(rows), tmp_path / "whole")
    assert same(tmp_path / "whole" / "model.safetensors", out / "model.safetensors")


def test_a_loss_that_is_no_number_stops_the_run_and_the_last_checkpoint_stays(tmp_path, rows):
    trainer = job_of(rows, save_every=2, eval_every=100).trainer(tmp_path / "run", Hooks(), resume=False)
    right = trainer.method.loss
    trainer.method.loss = lambda model, *arrays: right(model, *arrays) * (mx.inf if trainer.progress.step == 3 else 1)
    trainer._gradient = type(trainer)(
        **{name: getattr(trainer, name) for name in ("model", "method", "settings", "folder")}
    )._gradient
    with pytest.raises(TrainError, match=r"the loss is inf .* at step 4: .*step-00000002 is the last checkpoint"):
        trainer.run()
    kept = mx.load(str(tmp_path / "run" / "step-00000002" / "model.safetensors"))
    assert all(mx.isfinite(value).all() for value in kept.values())


def test_a_loss_that_rises_far_above_the_best_stops_the_run(tmp_path, rows):
    trainer = job_of(rows, steps=1000).trainer(tmp_path / "run", Hooks(), resume=False)
    for step in range(100):
        trainer._watch(1.0 + 0.5 * math.sin(step), 1.0, step)
    with pytest.raises(TrainError, match="the loss is rising"):
        for step in range(100, 300):
            trainer._watch(9.0, 1.0, step)


def test_one_odd_batch_stops_nothing(tmp_path, rows):
    trainer = job_of(rows, steps=1000).trainer(tmp_path / "run", Hooks(), resume=False)
    for step in range(200):
        trainer._watch(60.0 if step == 150 else 1.0, 1.0, step)


def test_a_folder_is_one_runs(tmp_path, rows):
    out = tmp_path / "run"
    run(job_of(rows), out, stop_after=2)
    with pytest.raises(TrainError, match="already holds a run; continue it with --resume"):
        job_of(rows).trainer(out, Hooks(), resume=False)
    with pytest.raises(TrainError, match=r"belongs to another run: learning_rate was 0.001 and is 0.002 now"):
        job_of(rows, learning_rate=2e-3).trainer(out, Hooks(), resume=True)
    with pytest.raises(TrainError, match="another run"):
        job_of(write_rows(tmp_path / "other.jsonl", 9)).trainer(out, Hooks(), resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(TrainError, match=r"holds thesis.tex but no run"):
        job_of(rows).trainer(tmp_path / "mine", Hooks(), resume=False)


def test_two_runs_at_once_in_one_folder_are_one_run_and_one_error(tmp_path, rows):
    first = job_of(rows).trainer(tmp_path / "run", Hooks(), resume=False)
    with pytest.raises(TrainError, match="another run is writing to it"):
        job_of(rows).trainer(tmp_path / "run", Hooks(), resume=True)
    first.folder.close()
    job_of(rows).trainer(tmp_path / "run", Hooks(), resume=True)


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("infill", 1.5),
        ("prefixes", 1.5),
        ("padding", -0.1),
        ("smoothing", 0.9),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("canvas", "wide"),
        ("optimizer", "sgd"),
        ("objective", "masks"),
        ("seed", -1),
    ],
)
def test_settings_that_cannot_work_are_refused_by_the_fields_name(field, value):
    with pytest.raises(TrainError, match=f"^{field} must be ") as refused:
        TrainSettings(**{"steps": 1, field: value})
    assert refused.value.field == field


@pytest.mark.parametrize("field", ["infill", "prefixes", "padding", "smoothing"])
def test_what_masks_is_refused_where_nothing_is_masked(field):
    with pytest.raises(TrainError, match=f"^{field} needs the masked objective") as refused:
        TrainSettings(steps=1, objective="causal", **{field: 0.1})
    assert refused.value.field == field


@pytest.mark.parametrize("objective", ["causal", "mixed"])
def test_a_model_learns_from_left_to_right_too(tmp_path, rows, objective):
    run(job_of(rows, steps=40, learning_rate=1e-2, objective=objective, infill=0, eval_every=10), tmp_path / "run")
    found = [valid for *_, valid in curve(tmp_path / "run") if valid is not None]
    assert found[-1] < 0.6 * found[0]


def test_smoothing_is_of_what_is_learnt_and_not_of_what_is_validated(tmp_path, rows):
    valid, learnt = [], []
    for smoothing in (0, 0.3):
        trainer = job_of(rows, smoothing=smoothing).trainer(tmp_path / str(smoothing), Hooks(), resume=False)
        valid.append(trainer.evaluate(trainer.model))
        learnt.append(float(trainer.method.loss(trainer.model, *trainer.method.batches(trainer.model, 0)[0])))
    assert valid[0] == valid[1]
    assert learnt[0] != learnt[1]


def test_mixed_training_is_validated_by_the_masked_objective_alone(tmp_path, rows):
    def valid(objective):
        trainer = job_of(rows, objective=objective, infill=0).trainer(tmp_path / objective, Hooks(), resume=False)
        return trainer.evaluate(trainer.model)

    assert valid("mixed") == valid("masked") != valid("causal")


def test_the_learning_rate_rises_and_falls_along_a_cosine():
    settings = TrainSettings(steps=110, warmup=10, learning_rate=1.0)
    rates = [settings.rate(step) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[60] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_only_matrices_that_are_no_embeddings_decay(tmp_path, rows):
    job = job_of(rows, weight_decay=0.5, learning_rate=0.1, warmup=0, clip=1e-9)
    before = dict(tree_flatten(job.learner.model.parameters()))
    trainer = job.trainer(tmp_path / "run", Hooks(), resume=False)
    trainer.optimizer.learning_rate = 0.1
    zero = {name: mx.zeros_like(value) for name, value in before.items()}
    from mlx.utils import tree_unflatten

    trainer.optimizer.update(trainer.model, tree_unflatten(list(zero.items())))
    for name, after in tree_flatten(trainer.model.parameters()):
        decays = after.ndim > 1 and "embed" not in name
        assert mx.allclose(after, before[name] * (0.95 if decays else 1.0)), name


def test_muon_makes_the_steps_of_the_layers_matrices_orthogonal_and_leaves_the_rest_to_adamw(tmp_path, rows):
    trainer = job_of(rows, optimizer="muon", weight_decay=0.0).trainer(tmp_path / "run", Hooks(), resume=False)
    before = {name: mx.array(value) for name, value in tree_flatten(trainer.model.parameters())}
    set_rate(trainer.optimizer, 0.01)
    mx.random.seed(0)
    trainer.optimizer.update(trainer.model, tree_map(lambda value: mx.random.normal(value.shape), trainer.model.parameters()))
    for name, after in tree_flatten(trainer.model.parameters()):
        step = after - before[name]
        if after.ndim > 1 and "layers." in name:
            scale = 0.01 * MUON_RATE * max(1, step.shape[0] / step.shape[1]) ** 0.5
            sizes = mx.linalg.svd(step, compute_uv=False, stream=mx.cpu) / scale
            assert sizes.min().item() > 0.5 and sizes.max().item() < 1.3, name
        else:
            assert mx.allclose(mx.abs(step), mx.array(0.01), rtol=0.02), name


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_matrices_made_orthogonal_side_by_side_are_mlxs_own_to_the_bit(monkeypatch, lanes):
    shapes = {"q": (8, 8), "k": (4, 8), "up": (24, 8), "down": (8, 24)}
    mx.random.seed(0)
    weights, gradients = ({name: mx.random.normal(shape) for name, shape in shapes.items()} for _ in range(2))
    streams = [mx.new_stream(mx.default_device()) for _ in range(lanes)]
    monkeypatch.setattr(trainer_room, "streams", lambda: streams)
    used, stream = [], mx.stream
    monkeypatch.setattr(mx, "stream", lambda chosen: used.append(chosen) or stream(chosen))
    (muon, *_) = make_optimizer(TrainSettings(steps=1, optimizer="muon")).optimizers
    plain = optim.Muon(muon.learning_rate.item(), weight_decay=0.0)
    for optimizer in (muon, plain):
        optimizer.init(weights)
    for _ in range(3):
        found, wanted = (optimizer.apply_gradients(gradients, weights) for optimizer in (muon, plain))
        assert all(mx.array_equal(found[name], wanted[name]) for name in shapes)
        assert not any(mx.array_equal(found[name], weights[name]) for name in shapes)
        weights = wanted
    assert used == [streams[place % lanes] for _ in range(3) for place in range(len(shapes))]
